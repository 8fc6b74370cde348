"""Lists of nearest neighbours: the k greatest scores of each row, where the first index wins a tie, and how lists are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Metric = Literal["dot", "l2"]


@dataclass(frozen=True)
class Neighbours:
    """Nearest rows of a memory, best first. score: inner product, or negative squared distance; index: row of the memory."""

    score: Float[Tensor, "*subsets q k"]
    index: Int[Tensor, "*subsets q k"]


def recall(index: Int[Tensor, "q k"], truth: Int[Tensor, "q k"]) -> float:
    """Return recall@k: the share of the true neighbours `truth` that are in `index`, over all queries."""
    return float((index[:, :, None] == truth[:, None, :]).any(1).float().mean())


def top(values: Float[Tensor, "q n"], k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Return the k greatest of each row, greatest first, and their indices; the first index wins a tie.

    `topk` does not say which of equal values it returns. A CPU looks for ties and sorts their rows; on a GPU the host would have
    to wait for that, so values are ordered together with their indices.
    """
    return top_of_pairs(values, k) if values.is_cuda else _top_by_stable_sort(values, k)


def top_of_pairs(values: Float[Tensor, "q n"], k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Return the same as `top`, without a wait for the device: the k greatest of 64-bit integers, which are all different.

    The upper half of an integer orders as its float32 value does (-0 as 0, NaN above infinity); the lower half is greater for a
    smaller index.
    """
    bits = (values.float() + 0.0).view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    last = values.shape[1] - 1
    pairs = (ordered << 32) + (last - torch.arange(values.shape[1], device=values.device))
    index = last - (pairs.topk(k, dim=1).values & 0xFFFFFFFF)
    return values.gather(1, index), index


def _top_by_stable_sort(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the same as `top`: by `topk`, and by a stable sort for the rows with a tie among their k + 1 greatest."""
    value, index = values.topk(min(k + 1, values.shape[1]), dim=1)
    tied = ((value[:, 1:] == value[:, :-1]) & value[:, 1:].isfinite()).any(1).nonzero()[:, 0]
    value, index = value[:, :k], index[:, :k]
    if len(tied):
        ordered, order = values[tied].sort(dim=1, descending=True, stable=True)
        value, index = value.index_copy(0, tied, ordered[:, :k]), index.index_copy(0, tied, order[:, :k])
    return value, index


def stacked(subsets: Sequence[Neighbours]) -> Neighbours:
    """Return the neighbours of several subsets with the subsets as the first dimension."""
    return Neighbours(torch.stack([subset.score for subset in subsets]), torch.stack([subset.index for subset in subsets]))


def merged(best: Neighbours, more: Neighbours, k: int) -> Neighbours:
    """Return the k best of two lists; where scores are equal, those of the first come first."""
    if best.score.shape[1] == 0:
        return more
    scores = torch.cat([best.score, more.score], 1)
    score, index = top(scores, min(k, scores.shape[1]))
    return Neighbours(score, torch.cat([best.index, more.index], 1).gather(1, index))


def merged_top(
    values: Float[Tensor, "*lists q n"], rows: Int[Tensor, "*lists q n"], k: int
) -> tuple[Float[Tensor, "*lists q k"], Int[Tensor, "*lists q k"]]:
    """Return the k greatest values of each query and their rows, of lists joined in any order; the first row wins a tie.

    So parts of a memory that are searched apart give what a search of the whole gives. -inf marks places that no row takes.
    """
    rows, order = rows.sort(dim=-1)
    values = values.gather(-1, order)
    score, index = top(values.flatten(0, -2), k)
    shape = (*values.shape[:-1], k)
    return score.view(shape), rows.gather(-1, index.view(shape))
