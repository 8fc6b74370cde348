"""One record out of several versions of it: scores of the same thing become one, and contradictions are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densebench.console import one_line
from densebench.results.record import key_of, order_of, points_of
from densebench.results.score import heading, point_of, without_seed

PARTS = ("unit", "direction", "digits", "ci95", "per_class", "bootstrap")
"""What else of a score must agree, besides its value. Details may differ: they say how a number came about."""


@dataclass(frozen=True)
class Version:
    """A record as one folder holds it. where: what messages call it; folders: the results folders that it comes from."""

    where: str
    folders: tuple[Path, ...]
    record: dict[str, Any]

    @property
    def points(self) -> int:
        """How many points it holds."""
        return len(points_of(self.record, self.record["protocol"]["headline"]))


@dataclass(frozen=True)
class Clash:
    """Two versions of one score that contradict each other. score: what it is, in words; values: what each folder says."""

    score: str
    values: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.score} is {' and '.join(f'{value} in {where}' for where, value in self.values)}"


def label_of(record: dict[str, Any]) -> str:
    """Return what messages call a record: its id, its protocol, its data set and its backbone."""
    backbone, protocol, dataset = record["backbone"], record["protocol"], record["dataset"]
    named = f"{protocol['name']}/{protocol['preset']}, {dataset['name']}, {backbone.get('name', backbone['spec'])}"
    return one_line(f"record {record['id']} ({named})")


def united(versions: Sequence[Version], preferred: Version | None = None) -> tuple[dict[str, Any], list[Clash], list[str]]:
    """Return the record with the scores of all versions, the contradictions, and the scores whose details alone differ, in words.

    The facts of the run (command, costs) are those of the version with the most points, the first of several such. A score of
    `preferred` counts before any other. The record is complete if a version is, or was before a later run began. The same
    versions in the same order give the same record, and uniting it with them again changes nothing.
    """
    base = max(versions, key=lambda version: version.points)  # of several the first
    order = sorted(versions, key=lambda version: (version is not preferred, version is not base))
    chosen: dict[tuple[Any, ...], tuple[Version, dict[str, Any]]] = {}
    clashes, differing = [], []
    for version in order:
        for score in version.record["scores"]:
            holder, known = chosen.setdefault(key_of(score), (version, score))
            if _contradicts(known, score) and holder is not preferred:
                clashes.append(_clash((holder, known), (version, score)))
            elif known.get("details") != score.get("details") and not _contradicts(known, score):
                differing.append(words_of(score))
    record = {**base.record, "scores": [chosen[key][1] for key in sorted(chosen, key=order_of)]}
    names = [version.record["backbone"]["name"] for version in [base, *versions] if "name" in version.record["backbone"]]
    record["backbone"] = {**record["backbone"], **({"name": names[0]} if names else {})}
    if any(version.record["status"] == "complete" or version.record["run"].get("was_complete") for version in versions):
        record["status"] = "complete"
        record["run"] = {name: value for name, value in record["run"].items() if name not in ("owner", "was_complete")}
    return record, clashes, differing


def words_of(score: dict[str, Any]) -> str:
    """Return what a score is, in words: "miou matched at K 21, seed 0"."""
    point = point_of(score)
    seed = [f"seed {value}" for name, value in point if name == "seed" and value is not None]
    at = ", ".join([*([heading(without_seed(point))] if without_seed(point) else []), *seed])
    return one_line(f"{score['metric']} {score['variant']}" + (f" at {at}" if at else ""))


def _contradicts(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return any(one.get(name) != other.get(name) for name in ("value", *PARTS))


def _clash(*versions: tuple[Version, dict[str, Any]]) -> Clash:
    scores = [score for _, score in versions]
    if scores[0]["value"] != scores[1]["value"]:
        shown = [f"{score['value']!r}" for score in scores]
    else:
        names = [name for name in PARTS if scores[0].get(name) != scores[1].get(name)]
        shown = [f"{score['value']!r} with a {' and a '.join(names)} of its own" for score in scores]
    pairs = zip(versions, shown, strict=True)
    return Clash(words_of(scores[0]), tuple((version.where, text) for (version, _), text in pairs))
