"""Matches of two sets of features without training, and how many of them are right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.numerics.search import nearest, top

LEAST = 1e-9  # of a cosine distance, as in probe3d: equal features have weight 0 instead of 0 / 0


def two_nearest(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> tuple[Float[Tensor, "n 2"], Int[Tensor, "n"]]:
    """Return the cosine distances, 1 - cosine, of each source feature to its two nearest targets, and the nearest one's index.

    The search is exact and holds no matrix of n x m; the lowest index wins a tie. A single target is its own second. Raises
    UserError for features that are not finite.
    """
    source, target = (F.normalize(each.float(), dim=1) for each in (source, target))
    found = nearest(source, target, min(2, len(target)))
    return 1 - found.score.expand(-1, 2), found.index[:, 0]


def is_mutual(
    source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], queries: Int[Tensor, "q"], match: Int[Tensor, "q"]
) -> Bool[Tensor, "q"]:
    """Return which queries, rows of `source`, are the nearest of all source features to their match, a row of `target`."""
    source, target = (F.normalize(each.float(), dim=1) for each in (source, target))
    return nearest(target, source, 1).index[:, 0][match] == queries


def ratio_weights(distances: Float[Tensor, "n 2"]) -> Float[Tensor, "n"]:
    """Return 1 - d1 / d2, how much nearer the nearest target is than the second one: distances .1 and .2 give .5.

    Both distances count as LEAST at least.
    """
    near, second = distances.clamp(min=LEAST).unbind(1)
    return 1 - near / second


def largest(weights: Float[Tensor, "n"], count: int) -> Int[Tensor, "kept"]:
    """Return the indices of the `count` largest weights, or of all where there are fewer; the lowest index wins a tie."""
    return top(weights[None], min(count, len(weights)))[1][0]


def shares_within(errors: Float[Tensor, "n"], limits: Sequence[float]) -> Float[Tensor, "limits"]:
    """Return the share of errors that are below each limit, strictly; NaN where there is no error at all."""
    bounds = torch.tensor(limits, dtype=torch.float64)
    return (errors.double()[:, None] < bounds).double().mean(0)


def area_under_recall(errors: Float[Tensor, "n"], limit: float) -> float:
    """Return the mean recall, 0..1, over all thresholds from 0 to `limit`: errors 1, 2, 3, 4 give .6 at 5.

    As is usual for poses (SuperGlue, LoFTR), recall runs in straight lines from the origin through the errors in order, and then
    stays.
    """
    below = errors.double().sort().values
    below = below[below < limit]
    at = torch.cat([below.new_zeros(1), below, below.new_tensor([limit])])
    recall = torch.arange(len(below) + 1, dtype=torch.float64) / len(errors)
    return float(torch.trapezoid(torch.cat([recall, recall[-1:]]), at)) / limit


def in_bins(values: Float[Tensor, "n"], edges: Sequence[float]) -> list[Bool[Tensor, "n"]]:
    """Return which values lie in each bin from one edge to the next: the lower edge belongs to it, the upper does not."""
    return [(values >= low) & (values < high) for low, high in itertools.pairwise(edges)]
