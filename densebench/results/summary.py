"""A record in a few lines, as `densebench eval` prints it."""

from __future__ import annotations

import statistics
from typing import Any

from densebench.console import one_line
from densebench.results import coverage
from densebench.results.baselines import baselines_of, in_words
from densebench.results.provenance import is_rehearsal
from densebench.results.score import Point, heading, in_unit, point_of, sort_key, without_seed

BESIDE = "beside"
"""The key of a headline's details that names the metric which is printed beside it."""


def summary(record: dict[str, Any]) -> str:
    """Return the headline at every point, a line each, mean ± standard deviation over seeds; for a dry run, the points.

    Beside it stand baselines without features, and the score of the same point and variant whose metric the headline's details
    name under `BESIDE`, with its interval.
    """
    if "points" in record:
        points = ([f"{name} {value}" for name, value in point.items() if value is not None] for point in record["points"])
        return "\n".join(one_line(", ".join(point)) for point in points)
    backbone, protocol, headline = record["backbone"], record["protocol"], record["protocol"]["headline"]
    shown = [score for score in record["scores"] if headline.items() <= score.items()]
    unit = in_unit(shown[0]["unit"], shown[0]["direction"]) if shown else ""
    first = (
        f"{backbone.get('name', backbone['spec'])} on {record['dataset']['name']} ({coverage.images(record['dataset'])}), "
        f"{protocol['name']}/{protocol['preset']} v{protocol['version']}, {headline['variant']} {headline['metric']}{unit}"
    )
    if is_rehearsal(record):
        first += ", a rehearsal"
    if shard := record.get("shard"):
        first += f", shard {shard['index']}/{shard['of']}"
    by_point: dict[Point, list[dict[str, Any]]] = {}
    for score in shown:
        by_point.setdefault(without_seed(point_of(score)), []).append(score)
    baselines = baselines_of(record)
    width = max((len(heading(point)) for point in by_point), default=0)
    lines = (
        _line(point, by_point[point], baselines.get(point, {}), width) + _beside(by_point[point], record["scores"])
        for point in sorted(by_point, key=sort_key)
    )
    return "\n".join([one_line(first), *lines])


def _line(point: Point, scores: list[dict[str, Any]], baselines: dict[str, float], width: int) -> str:
    values, digits = [score["value"] for score in scores], scores[0]["digits"] + 1  # one more than tables show
    spread = f" ± {statistics.stdev(values):.{digits}f} over {len(values)} seeds" if len(values) > 1 else ""
    absent = max(len(score.get("details", {}).get("absent", [])) for score in scores)
    note = f" (up to {absent} {'class is' if absent == 1 else 'classes are'} in no training label)" if absent else ""
    beside = one_line(in_words({name: [[value]] for name, value in baselines.items()}, digits))
    guesses = f" ({beside})" if beside else ""
    return f"  {heading(point):{max(6, width)}} {statistics.fmean(values):{digits + 4}.{digits}f}{spread}{note}{guesses}"


def _beside(headlines: list[dict[str, Any]], scores: list[dict[str, Any]]) -> str:
    """Return " (retention 74.9 % of clean, 95 % 72.1 to 77.8)"; "" where the headline names no other metric, or has seeds."""
    shown = headlines[0]
    metric = shown.get("details", {}).get(BESIDE)
    same = [each for each in scores if (each["metric"], each["variant"]) == (metric, shown["variant"])]
    found = [each for each in same if point_of(each) == point_of(shown)] if len(headlines) == 1 else []
    if not found:
        return ""
    score, digits = found[0], found[0]["digits"] + 1
    low, high = score.get("ci95") or (None, None)
    ends = "" if low is None else f", 95 % {low:.{digits}f} to {high:.{digits}f}"
    return one_line(f" ({metric} {score['value']:.{digits}f}{' ' if score['unit'] else ''}{score['unit']}{ends})")
