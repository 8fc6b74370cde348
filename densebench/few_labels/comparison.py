"""How backbones compare by one protocol: their scores, and how far the best is ahead of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from densebench.few_labels.paired import (
    by_group,
    groups_to_separate,
    interval,
    mean_iou,
    most_groups,
    without_each,
)

SAME = 0.05
"""Points of mIoU below which two scores are the same in print."""


@dataclass(frozen=True)
class Difference:
    """How far one score is ahead of another in points of mIoU, with the 95 % interval of the paired difference."""

    value: float
    low: float
    high: float

    @property
    def separable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Standing:
    """How a backbone stands by one protocol: the mean IoU in % and its interval.

    behind: how far the best one is ahead of it; None for the best. to_separate: how many more labelled images would separate the
    two if the difference stays as it is, 0 where they are separable; None where `limit` more would not.
    """

    backbone: str
    value: float
    low: float
    high: float
    per_class: Mapping[str, float]
    behind: Difference | None = None
    to_separate: int | None = 0


@dataclass(frozen=True)
class Comparison:
    """The standings by one protocol, the best first.

    chance: the mean IoU of predicting the most frequent class everywhere; over_chance: how far the best is ahead of that. limit:
    how many more images `to_separate` looks at.
    """

    protocol: str
    preset: str
    standings: tuple[Standing, ...]
    chance: float
    over_chance: Difference
    limit: int


def difference_of(first: np.ndarray, second: np.ndarray) -> Difference:
    """Return how far the first tally of groups `[groups 3 c]` is ahead of the second, of the same groups."""
    value = float(mean_iou(first.sum(0)) - mean_iou(second.sum(0)))
    return Difference(value, *interval(value, without_each(first) - without_each(second)))


def compared(
    protocol: str,
    preset: str,
    tallies: Mapping[str, np.ndarray],
    chance: np.ndarray,
    group: np.ndarray,
    classes: tuple[str, ...],
) -> Comparison:
    """Return how backbones stand.

    tallies: by backbone, what `segmentation.tallies` counts of each image, [images 3 c], for the same images and classes; chance:
    the same of predicting the most frequent class; group: the group of each image.
    """
    rows = {name: by_group(tally, group) for name, tally in tallies.items()}
    constant, images = by_group(chance, group), len(group)
    groups = len(constant)
    values = {name: float(mean_iou(row.sum(0))) for name, row in rows.items()}
    best = max(values, key=lambda name: values[name])
    standings = []
    for name in sorted(values, key=lambda name: -values[name]):
        low, high = interval(values[name], without_each(rows[name]))
        behind, more = None, 0 if name == best else None
        if name != best:
            behind = difference_of(rows[best], rows[name])
            needed = groups_to_separate(behind.value, behind.low, behind.high, groups)
            more = None if needed is None else math.ceil((needed - groups) * images / groups)
        standings.append(Standing(name, values[name], low, high, _per_class(rows[name], classes), behind, more))
    limit = math.floor((most_groups(groups) - groups) * images / groups)
    return Comparison(
        protocol, preset, tuple(standings), float(mean_iou(constant.sum(0))), difference_of(rows[best], constant), limit
    )


def _per_class(row: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Return the IoU of each class in %."""
    agree, truth, prediction = row.sum(0)
    return {
        name: round(100 * int(a) / int(t + p - a), 4)
        for name, a, t, p in zip(classes, agree, truth, prediction, strict=True)
        if t
    }
