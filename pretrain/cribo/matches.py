"""Matches of a batch's objects across images: their search, their weights in the loss, and the vectors that the loss compares.

Source: CrIBo (Lebailly et al., ICLR 2024), section 3.2.2, equations 3, 4 and 8, and its official code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.numerics.host_copy import HostCopy
from densebench.numerics.late_indices import positions_among
from densebench.pretrain.cribo.bank import Bank, Pending, read_together
from densebench.training.objective import objects_per_group, shares


@dataclass(frozen=True)
class Matches:
    """The matches of the objects of both views.

    indices: of each object's neighbour in the bank of its view. used: which matches the loss uses. weights: their weights in it,
    0 for all others; with the official norm also 0 in a group of images whose objects have no match in the first view.
    """

    indices: Int[Tensor, "2 b k"]
    used: Bool[Tensor, "2 b k"]
    weights: Float[Tensor, "2 b k"]


@torch.no_grad()
def begin_searches(
    bank: Bank, objects: Float[Tensor, "2 b k d"], valid: Bool[Tensor, "b k"], numbers: Int[Tensor, " b"], count: HostCopy
) -> list[Pending]:
    """Begin the searches for the nearest neighbours of the objects, in the bank of each view, and return both.

    numbers: of the objects' images. count: the number of valid objects.
    """
    searches = [bank.begin(view, objects[view], numbers, valid, count) for view in (0, 1)]
    read_together(searches)
    return searches


def found_matches(
    bank: Bank,
    searches: Sequence[Pending],
    shape: tuple[int, int],
    closes: Callable[[int, Tensor], Bool[Tensor, "b k"]] | None,
) -> tuple[Int[Tensor, "2 b k"], Bool[Tensor, "2 b k"]]:
    """Return the index of each object's nearest neighbour in its view's bank, and which objects have a match.

    searches: those of both views, or none; then nothing matches. shape: b and k. closes: returns which matches of a view are
    cycle-consistent, given the view and the matches' vectors in the other view; None: all are used.
    """
    device = bank.objects.device
    indices = torch.zeros((2, *shape), dtype=torch.long, device=device)
    masks = torch.zeros_like(indices, dtype=torch.bool)
    for view, search in enumerate(searches):
        index, mask = search.result()
        indices[view], masks[view] = index, mask if closes is None else mask & closes(view, bank.at(1 - view, index))
    return indices, masks


def match_weights(used: Bool[Tensor, "2 b k"], norm: str, group: int) -> Float[Tensor, "2 b k"]:
    """Return the weights of matches: half of the mean over a group's matches in each direction, averaged over groups.

    norm: "official" divides both directions by the number of matches of the first, "paper" each by its own. group: number of
    images (0: all).
    """
    if norm == "official":
        counts, groups = objects_per_group(used[0], group)
        first = ((counts > 0) / counts.clamp(min=1) / groups)[:, None]
        return torch.stack([first * used[0], first * used[1]]) / 2
    return torch.stack([shares(used[0], group), shares(used[1], group)]) / 2


def neighbours(bank: Bank, indices: Int[Tensor, "2 b k"], chosen: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Return the neighbours of chosen objects. chosen: indices into the objects of view 1, followed by those of view 2."""
    near = indices.flatten()[chosen]
    first_view = chosen < indices[0].numel()
    return torch.where(first_view[:, None], bank.at(0, near), bank.at(1, near))


def in_other_view(valid: Bool[Tensor, "b k"], rows: int, chosen: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the rows of chosen objects in the other view, among the `rows` valid objects of view 1, then those of view 2.

    chosen: indices of valid objects, from 0 to `b * k - 1` in view 1 and on from `b * k` in view 2.
    """
    size = valid.numel()
    return positions_among(valid, chosen % size) + torch.where(chosen < size, rows, 0)
