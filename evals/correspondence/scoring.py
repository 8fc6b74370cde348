"""Hits of many pairs as scores: every average, every guess, every level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.evals.correspondence.geometry import Points
from densebench.evals.correspondence.guesses import GUESSES
from densebench.numerics.bootstrap import interval
from densebench.numerics.keypoints import AVERAGES, averaged, bootstrap_pck, tallied
from densebench.results.baselines import MARK
from densebench.results.score import Score

FEATURES = "features"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was found for one pair.

    hits: of the features and of each guess, the keypoints that are right at each threshold; those of a random patch are expected
    numbers. predicted: the matches in px of the target's picture. apart: their distances from the truth, as `errors` gives
    them. ties: keypoints for which several patches are equally similar;
    constant: whether that holds of all patches for all keypoints. flipped: whether the mirrored source was taken.
    outside: the keypoints outside the source's picture and outside the target's.
    """

    hits: Mapping[str, Float[np.ndarray, "alphas"]]
    points: int
    predicted: Points
    apart: Float[np.ndarray, "k"]
    ties: int
    constant: bool
    flipped: bool
    outside: tuple[int, int]


def name_of(average: str) -> str:
    """Return the name of the metric: pck_image, pck_point_class, ..."""
    return f"pck_{average.replace('-', '_')}"


@dataclass(frozen=True, eq=False)
class Scorer:
    """Makes the scores of the outcomes of pairs.

    average: that of the headline. parts: the indices of the pairs of each level; "" has all.
    """

    outcomes: Mapping[int, Outcome]
    categories: Sequence[str]
    parts: Mapping[str, Sequence[int]]
    average: str

    def scores(self, number: int, alpha: float, details: dict[str, Any]) -> Iterator[Score]:
        """Yield the scores of a threshold, its number among the thresholds; levels first, then guesses, the headline last."""
        levels = [level for level in self.parts if level]
        for level in levels:
            for who in (*GUESSES, FEATURES):
                yield self._score(who, level, self.average, number, alpha)
        for average in AVERAGES:
            if average != self.average:
                yield self._score(FEATURES, "", average, number, alpha)
        for guess in GUESSES:
            yield self._score(guess, "", self.average, number, alpha)
        yield self._score(FEATURES, "", self.average, number, alpha, details)

    def _score(
        self, who: str, level: str, average: str, number: int, alpha: float, details: dict[str, Any] | None = None
    ) -> Score:
        indices = list(self.parts[level])
        table, names = self._table(who, indices, number)
        sums = table.sum(0)
        own = self._counts(who, indices, number, in_full=details is not None)
        if who == FEATURES:
            own = {**(details or {}), **own}
        elif not level:
            own = {**MARK, **own}
        resampled = 100 * bootstrap_pck(table)[average]
        each = averaged(sums.T[:, :, None], "image" if average.startswith("image") else "point")
        return Score(
            name_of(average), f"{who}, {level}" if level else who, 100 * float(averaged(sums, average)), axes={"alpha": alpha},
            ci95=interval(resampled), per_class={name: 100 * float(value) for name, value in zip(names, each, strict=True)},
            bootstrap=tuple(resampled.tolist()) if who == FEATURES else (), details=own, direction="higher",
        )  # fmt: skip

    def _table(self, who: str, indices: Sequence[int], number: int) -> tuple[Float[Tensor, "n 4 c"], list[str]]:
        """Return what `tallied` gives of some pairs, and the names of its classes."""
        names = sorted({self.categories[index] for index in indices})
        hits, points = self._columns(who, indices, number)
        classes = torch.tensor([names.index(self.categories[index]) for index in indices])
        return tallied(torch.from_numpy(hits), torch.from_numpy(points), classes, len(names)), names

    def _columns(self, who: str, indices: Sequence[int], number: int) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        some = [self.outcomes[index] for index in indices]
        return np.array([float(each.hits[who][number]) for each in some]), np.array([each.points for each in some])

    def _counts(self, who: str, indices: Sequence[int], number: int, in_full: bool) -> dict[str, Any]:
        """Return how many keypoints are right, of how many in how many pairs; in full, those of each pair too."""
        hits, points = self._columns(who, indices, number)
        counts: dict[str, Any] = {"hits": _plain(hits.sum()), "points": int(points.sum()), "pairs": len(indices)}
        if in_full:
            counts |= {"hits_by_pair": [_plain(each) for each in hits], "points_by_pair": points.tolist()}
        return counts


def _plain(value: float) -> int | float:
    """Return a count as a whole number, an expected number rounded to a millionth."""
    return int(value) if value == int(value) else round(float(value), 6)
