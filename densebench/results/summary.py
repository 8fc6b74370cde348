"""A record in a few lines, as `densebench eval` prints it."""

from __future__ import annotations

import statistics
from typing import Any

from densebench.console import one_line
from densebench.results import coverage
from densebench.results.baselines import baselines_of, in_words
from densebench.results.provenance import is_rehearsal
from densebench.results.score import Point, heading, in_unit, point_of, sort_key, without_seed


def summary(record: dict[str, Any]) -> str:
    """Return the headline at every point, a line each, mean ± standard deviation over seeds; for a dry run, the points.

    Baselines without features stand beside it.
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
    lines = (_line(point, by_point[point], baselines.get(point, {}), width) for point in sorted(by_point, key=sort_key))
    return "\n".join([one_line(first), *lines])


def _line(point: Point, scores: list[dict[str, Any]], baselines: dict[str, float], width: int) -> str:
    values, digits = [score["value"] for score in scores], scores[0]["digits"] + 1  # one more than tables show
    spread = f" ± {statistics.stdev(values):.{digits}f} over {len(values)} seeds" if len(values) > 1 else ""
    absent = max(len(score.get("details", {}).get("absent", [])) for score in scores)
    note = f" (up to {absent} {'class is' if absent == 1 else 'classes are'} in no training label)" if absent else ""
    beside = one_line(in_words({name: [[value]] for name, value in baselines.items()}, digits))
    guesses = f" ({beside})" if beside else ""
    return f"  {heading(point):{max(6, width)}} {statistics.fmean(values):{digits + 4}.{digits}f}{spread}{note}{guesses}"
