"""Scores of pairs: the mean over pairs, how sure it is, and the mean over the pairs of a bin."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from densebench.console import warn
from densebench.evals.geometric_correspondence.matching import in_bins
from densebench.numerics.bootstrap import bootstrap_mean, interval
from densebench.results.score import Point, Score

Bins = Mapping[str, tuple[Float[Tensor, "pairs"], Sequence[float]]]
"""By the name of a bin's quantity, its value for each pair and the edges of the bins."""


def mean_score(
    metric: str, variant: str, shares: Float[Tensor, "pairs"], point: Point, details: dict[str, Any], resampled: bool = False
) -> list[Score]:
    """Return the mean over pairs of a share 0..1, in %, with its interval; nothing where no pair has one (NaN).

    resampled: whether the values of the bootstrap over pairs are kept, for comparisons of backbones.
    """
    values = 100 * shares[~shares.isnan()].double()
    if not len(values):
        return []
    draws = bootstrap_mean(values)
    return [
        Score(
            metric, variant, float(values.mean()), axes=dict(point), ci95=interval(draws), direction="higher",
            bootstrap=tuple(draws.tolist()) if resampled else (), details=details,
        )
    ]  # fmt: skip


def binned_scores(shares: Float[Tensor, "pairs"], bins: Bins, point: Point) -> list[Score]:
    """Return the recall in each bin; an empty bin has no score, `counts_of` names it."""
    scores = []
    for name, (values, edges) in bins.items():
        for label, chosen in zip(labels(name, edges), in_bins(values, edges), strict=True):
            scores += mean_score("recall", label, shares[chosen], point, {"pairs": int(chosen.sum())})
    return scores


def labels(name: str, edges: Sequence[float]) -> list[str]:
    """Return the names of bins, such as "rotation 0-30"."""
    return [f"{name} {low:g}-{high:g}" for low, high in itertools.pairwise(edges)]


def counts_of(bins: Bins) -> dict[str, int]:
    """Return how many pairs lie in each bin, and in none."""
    counts: dict[str, int] = {}
    for name, (values, edges) in bins.items():
        values = values[~values.isnan()]
        counts |= dict(zip(labels(name, edges), (int(chosen.sum()) for chosen in in_bins(values, edges)), strict=True))
        counts[f"{name} elsewhere"] = len(values) - sum(int(chosen.sum()) for chosen in in_bins(values, edges))
    return counts


def warn_of_one_target(same: int, pairs: int) -> None:
    """Warn where features cannot tell patches apart: every query of a pair has the same match."""
    if same:
        warn(f"in {same} of {pairs} pairs all matches are one patch: the features do not tell patches apart there")
