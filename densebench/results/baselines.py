"""Baselines without features: what a guess reaches that looks at no feature, shown beside every table of the scores.

A protocol yields such a score at each point, before the headline: the metric is the headline's, the variant says in words what is
guessed, such as "same place", and the details hold `MARK`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from densebench.results.score import Point, point_of, without_seed

MARK = {"baseline": True}
"""The details by which a score is known as one of a baseline."""
MOST = 6  # columns of a table whose baselines its caption gives; of a wider table it gives those of one column


def is_baseline(score: Mapping[str, Any], headline: Mapping[str, str]) -> bool:
    """Return whether a score in JSON is of a baseline of the headline's metric."""
    return score["metric"] == headline["metric"] and MARK.items() <= score.get("details", {}).items()


def baselines_of(record: Mapping[str, Any]) -> dict[Point, dict[str, float]]:
    """Return the mean over seeds of each baseline of a record: by point, by its name."""
    found: dict[Point, dict[str, list[float]]] = {}
    for score in record["scores"]:
        if is_baseline(score, record["protocol"]["headline"]):
            at_point = found.setdefault(without_seed(point_of(score)), {})
            at_point.setdefault(score["variant"], []).append(score["value"])
    return {point: {name: statistics.fmean(each) for name, each in values.items()} for point, values in found.items()}


def in_words(values: Mapping[str, Sequence[Sequence[float]]], digits: int, columns: Sequence[str] = ()) -> str:
    """Return "without features at 1/8, 1/1: same place 12.6 / 34.4, random patch 0.5 / 2.0 to 2.3"; "" without a baseline.

    values: by the baseline's name, for each column, what the records have. A range is given where they differ, as where a guess
    depends on the grid of a backbone. columns: their headings, where there are several.
    """
    each = [f"{name} {' / '.join(_range(of_records, digits) for of_records in found)}" for name, found in values.items()]
    at = f" at {', '.join(columns)}" if len(columns) > 1 else ""
    return f"without features{at}: {', '.join(each)}" if each else ""


def _range(values: Sequence[float], digits: int) -> str:
    """Return the least and the greatest value, once if they look alike; "-" where there is none."""
    return " to ".join(dict.fromkeys(f"{end(values):.{digits}f}" for end in (min, max))) if values else "-"
