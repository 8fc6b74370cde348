"""The one number that stands for all scores of a run: the headline at its first point, mean over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from densebench.datasets.dataset import Dataset
from densebench.evaluation.protocol import Evaluator, shown_in_pictures
from densebench.results.score import Point, Score, without_seed


@dataclass(frozen=True)
class Headline:
    """The headline of a run, in `unit`. ci95: its 95 % interval over images; None without one, and for a mean over seeds."""

    metric: str
    variant: str
    value: float
    unit: str
    direction: str
    digits: int
    ci95: tuple[float, float] | None
    others: tuple[tuple[Point, float], ...] = ()
    """The values at all other points, such as smaller fractions of the data."""

    def __str__(self) -> str:
        """Return the value with one decimal more than tables show, and its unit."""
        return f"{self.value:.{self.digits + 1}f} {self.unit}".strip()


def headline_points(evaluator: Evaluator, dataset: Dataset) -> list[Point]:
    """Return the points over which the headline is a mean: one that the protocol names, or one for each seed."""
    points = evaluator.points(dataset)
    named = [point for point in points if evaluator.decides().items() <= dict(point).items()]
    first = without_seed(shown_in_pictures(named or points))
    return [point for point in points if without_seed(point) == first]


def headline_of(scores: Sequence[Score], evaluator: Evaluator, dataset: Dataset) -> Headline:
    """Return the headline of the scores of a run: all of the training data, the first K, and so on; the mean over seeds."""
    wanted = evaluator.headline()
    by_point: dict[Point, list[Score]] = {}
    for score in scores:
        if {"metric": score.metric, "variant": score.variant} == wanted:
            by_point.setdefault(without_seed(tuple(score.axes.items())), []).append(score)
    first = without_seed(headline_points(evaluator, dataset)[0])
    means = {point: statistics.fmean(score.value for score in group) for point, group in by_point.items()}
    some = by_point[first]
    return Headline(
        some[0].metric,
        some[0].variant,
        means.pop(first),
        some[0].unit,
        some[0].direction,
        some[0].digits or 0,
        some[0].ci95 if len(some) == 1 else None,
        tuple(means.items()),
    )
