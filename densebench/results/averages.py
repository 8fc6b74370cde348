"""Scores of a record as people read them: one number a point, the mean over seeds, and how sure it is."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from densebench.results.ranking import bounds
from densebench.results.score import Point, decode, heading, in_unit, point_of, sort_key, without_seed


@dataclass(frozen=True)
class Average:
    """The mean over seeds of a metric and variant at a point. ends: its 95 % interval over images, None where nobody knows it.

    deviation: the standard deviation over seeds, None for one. replicates: bootstrap values, averaged over seeds.
    """

    point: Point
    metric: str
    variant: str
    value: float
    unit: str
    direction: str
    digits: int
    seeds: int
    deviation: float | None
    ends: tuple[float, float] | None
    replicates: np.ndarray | None
    classes: dict[str, float | None]

    @property
    def key(self) -> tuple[str, str]:
        """Metric and variant."""
        return self.metric, self.variant

    @property
    def heading(self) -> str:
        """The name of the point, such as 1/8."""
        return heading(self.point)

    @property
    def text(self) -> str:
        """The value as tables show it but with one more digit, with the deviation over seeds."""
        digits = self.digits + 1
        return f"{self.value:.{digits}f}" + ("" if self.deviation is None else f" ± {self.deviation:.{digits}f}")

    @property
    def interval(self) -> str:
        """The 95 % interval as a text; "" without one."""
        return "" if self.ends is None else between(self.ends, self.digits + 1)

    @property
    def how_to_read(self) -> str:
        """The unit and the direction, as captions give them."""
        return in_unit(self.unit, self.direction)

    def json(self) -> dict[str, Any]:
        """Return the number as JSON values."""
        low, high = self.ends or (None, None)
        names = ("metric", "variant", "value", "unit", "direction", "seeds", "deviation")
        return {
            "point": dict(self.point),
            "heading": self.heading,
            **{n: getattr(self, n) for n in names},
            "low": low,
            "high": high,
        }


def between(ends: tuple[float, float], digits: int) -> str:
    """Return an interval as a text, "0.40 to 2.03"."""
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def averages(record: dict[str, Any]) -> list[Average]:
    """Return the numbers of a record: metric by metric as the record has them, the points of each from few data to all."""
    groups: dict[tuple[str, str, Point], list[dict[str, Any]]] = {}
    for score in record["scores"]:
        groups.setdefault((score["metric"], score["variant"], without_seed(point_of(score))), []).append(score)
    order = {key: place for place, key in enumerate(dict.fromkeys(key[:2] for key in groups))}
    found = [_average(key[2], scores) for key, scores in groups.items()]
    return sorted(found, key=lambda average: (order[average.key], sort_key(average.point)))


def of_headline(record: dict[str, Any]) -> list[Average]:
    """Return the numbers that tables show of a record, from few data to all."""
    headline = record["protocol"]["headline"]
    return [average for average in averages(record) if average.key == (headline["metric"], headline["variant"])]


def _average(point: Point, scores: list[dict[str, Any]]) -> Average:
    first, values = scores[0], [score["value"] for score in scores]
    decoded = [decode(score["bootstrap"]) for score in scores if score.get("bootstrap")]
    replicates = np.mean(decoded, axis=0) if len(decoded) == len(scores) else None
    given = first.get("ci95") if len(scores) == 1 else None
    return Average(
        point, first["metric"], first["variant"], statistics.fmean(values), first["unit"], first["direction"], first["digits"],
        sum(score.get("seed") is not None for score in scores), statistics.stdev(values) if len(values) > 1 else None,
        (given[0], given[1]) if given else bounds(replicates), replicates, _classes(scores),
    )  # fmt: skip


def _classes(scores: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean over seeds of each class; None for one that no seed has."""
    each = [score.get("per_class") or {} for score in scores]
    found: dict[str, float | None] = {}
    for name in dict.fromkeys(name for classes in each for name in classes):
        values = [value for classes in each if (value := classes.get(name)) is not None]
        found[name] = statistics.fmean(values) if values else None
    return found
