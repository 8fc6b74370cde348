"""What differs between two records, and whether their numbers may be compared (`comparable`), for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from densebench.backbones import LABELS, without_labels
from densebench.results import coverage
from densebench.results.averages import Average, averages, between
from densebench.results.comparable import differing, reasons, short
from densebench.results.lookup import lookup, names
from densebench.results.ranking import bounds, lead
from densebench.results.score import SIGNS, Point, decides, heading, sort_key
from densebench.results.sheet import Section, text
from densebench.results.showing import marks_of
from densebench.results.tables import metric_name

CLASSES = 10  # classes with the largest differences
MACHINE = ("system", "cpu")
TITLES = {
    "protocol": "Protocol and settings",
    "dataset": "Data set",
    "backbone": "Backbone",
    "names": "Names of the backbone (they decide no number)",
    "code": "Code of densebench",
    "packages": "Versions of packages",
    "machine": "Machine and runtime options (they must not change a number)",
}
"""What the parts of a difference are called."""


def diff(
    first: str | Path | dict[str, Any],
    second: str | Path | dict[str, Any],
    results: str | Path | Sequence[str | Path] = "results",
) -> Difference:
    """Return what differs between two records, and whether their numbers may be compared: `print(diff("0f62", "raw pixels"))`.

    first, second: as `showing.show` takes them. Raises UserError where there is no such record, or more than one.
    """
    found = [(None, each) if isinstance(each, dict) else lookup(each, results) for each in (first, second)]
    return Difference(found[0][1], found[1][1], (found[0][0], found[1][0]))


@dataclass(frozen=True)
class Compared:
    """Two numbers at one point: those of A and B, and A - B with its 95 % interval where they pair."""

    a: Average
    b: Average

    @property
    def difference(self) -> float:
        """A - B."""
        return self.a.value - self.b.value

    @cached_property
    def ends(self) -> tuple[float, float] | None:
        """The 95 % interval of A - B by the paired bootstrap over images; None where the draws do not pair."""
        if self.ahead is None:
            return None
        return bounds(np.asarray(self.a.replicates) - np.asarray(self.b.replicates))

    @cached_property
    def ahead(self) -> int | None:
        """1 where A is separably better, -1 where B is, 0 where the interval holds 0; None without an interval."""
        found = lead(self.a.replicates, self.b.replicates)
        return None if found is None else SIGNS[self.a.direction] * found

    @property
    def texts(self) -> tuple[str, str]:
        """A - B and its interval."""
        digits = self.a.digits + 1
        return f"{self.difference:+.{digits}f}", "" if self.ends is None else between(self.ends, digits)

    @property
    def conclusion(self) -> str:
        """Which of the two is better, in words."""
        digits = self.a.digits + 1
        if self.ahead is None:
            return "no interval tells whether they are separable" if round(self.difference, digits) else "they are equal"
        return {1: "A is separably better", -1: "B is separably better", 0: "they are not separable"}[self.ahead]


@dataclass(frozen=True)
class Difference:
    """Two records, A and B. It prints as `densebench diff` does in a pipe."""

    a: dict[str, Any]
    b: dict[str, Any]
    paths: tuple[Path | None, Path | None] = (None, None)

    def __str__(self) -> str:
        return text(self.sections()).rstrip("\n")

    @cached_property
    def parts(self) -> dict[str, list[tuple[str, Any, Any]]]:
        """What differs, by what it means (`TITLES`): names and the values of A and B."""
        a, b = self.a, self.b
        protocols = [{key: value for key, value in each["protocol"].items() if key != "settings"} for each in (a, b)]
        settings = [each["protocol"]["settings"] for each in (a, b)]
        labels = [{name: each["backbone"].get(name) for name in LABELS} for each in (a, b)]
        machines = [_machine(each) for each in (a, b)]
        packages = [{key: value for key, value in each["environment"].items() if key not in MACHINE} for each in (a, b)]
        runs = [_runtime(each["run"]) for each in (a, b)]
        return {
            "protocol": [*differing(*protocols), *differing(*settings)],
            "dataset": differing(a["dataset"], b["dataset"]),
            "backbone": differing(without_labels(a["backbone"]), without_labels(b["backbone"])),
            "names": differing(*labels),
            "code": differing(a["code"], b["code"]),
            "packages": differing(*packages),
            "machine": [*differing(*machines), *differing(*runs)],
        }

    @cached_property
    def reasons(self) -> list[str]:
        """Why the numbers may not be compared; empty where they may."""
        return reasons(self.a, self.b)

    @cached_property
    def compared(self) -> list[Compared]:
        """The numbers of the headline of A at the points that both have; none where the numbers may not be compared."""
        if self.reasons:
            return []
        both = [{(each.key, each.point): each for each in averages(record)} for record in (self.a, self.b)]
        headline = self.a["protocol"]["headline"]
        key = (headline["metric"], headline["variant"])
        return [Compared(each, both[1][name]) for name, each in both[0].items() if name[0] == key and name in both[1]]

    @property
    def decisive(self) -> Compared | None:
        """The numbers at the point that ranks go by, else with the most data, of those that both have; None without one."""

        def order(each: Compared) -> tuple[bool, list[tuple[str, float, str]]]:
            return decides(self.a["protocol"], dict(each.a.point)), sort_key(each.a.point)

        return max(self.compared, key=order, default=None)

    @cached_property
    def sentence(self) -> str:
        """Whether the numbers may be compared, in one sentence: why not, or which backbone is better."""
        if self.reasons:
            return f"The numbers of A and B may not be compared: {'; '.join(self.reasons)}."
        limit, dataset = self.a["dataset"]["limit"], self.a["dataset"]
        apart = ""
        if limit is not None:
            apart = f" with each other alone, both being cut to {limit:,} images (--limit)"
        elif coverage.partial(dataset):
            apart = f" with each other, though not with published numbers ({coverage.images(dataset)})"
        if self.a["id"] == self.b["id"]:
            return f"A and B are two versions of one record: {self._versions()}."
        start = f"The numbers of A and B may be compared{apart}"
        if self.decisive is None:
            return f"{start}, but there is no point at which both have a score."
        last = self.decisive
        value, ends = last.texts
        what = f"{metric_name(last.a.metric)}{last.a.how_to_read}"
        between_both = f"{value} ({ends})" if ends else value
        return f"{start}: at {last.a.heading}, A - B is {between_both} {what}, so {last.conclusion}."

    def _versions(self) -> str:
        """Return how two records of one id differ in their scores."""
        if not self.compared:
            return "there is no point at which both have a score"
        largest = max(self.compared, key=lambda each: abs(each.difference))
        if not largest.difference:
            return "their scores are equal at every point that both have"
        why = "the cause is the code, a package, the machine or an edited file"
        return f"their scores differ by up to {abs(largest.difference):.3g} (at {largest.a.heading}); {why}"

    def json(self) -> dict[str, Any]:
        """Return what differs and what may be compared as JSON values."""
        return {
            "a": self.a["id"], "b": self.b["id"], "files": [None if path is None else str(path) for path in self.paths],
            "differences": {
                part: [{"name": name, "a": a, "b": b} for name, a, b in rows] for part, rows in self.parts.items()
            },
            "comparable": not self.reasons, "reasons": self.reasons,
            "scores": [
                {"point": dict(each.a.point), "metric": each.a.metric, "variant": each.a.variant, "unit": each.a.unit,
                 "direction": each.a.direction, "a": each.a.value, "b": each.b.value, "difference": each.difference,
                 "low": None if each.ends is None else each.ends[0], "high": None if each.ends is None else each.ends[1],
                 "better": None if each.ahead is None else {1: "a", -1: "b", 0: "neither"}[each.ahead]}
                for each in self.compared
            ],
            "sentence": self.sentence,
        }  # fmt: skip

    def sections(self) -> list[Section]:
        """Return what differs as sections to print, the sentence last."""
        facts = [(letter, _title(record, path)) for letter, record, path in zip("AB", (self.a, self.b), self.paths, strict=True)]
        notes = [
            (f"note on {letter}", mark)
            for letter, record in zip("AB", (self.a, self.b), strict=True)
            for mark in marks_of(record)
        ]
        tables = [
            Section(TITLES[part], (), ("", "A", "B"), [(name, short(first), short(second)) for name, first, second in rows], 3)
            for part, rows in self.parts.items()
        ]
        same = [TITLES[part].partition(" (")[0].lower() for part, rows in self.parts.items() if not rows]
        return [
            Section("Two records", [*facts, *notes, *([("same", ", ".join(same))] if same else [])]),
            *(table for table in tables if not table.is_empty),
            self._scores(),
            *self._of_classes(),
            Section("May their numbers be compared?", lines=[self.sentence]),
        ]

    def _scores(self) -> Section:
        """Return the headline of both at every point; differences only where they may be compared."""
        shown: list[dict[Point, Average]] = []
        what = []
        for record in (self.a, self.b):
            headline = record["protocol"]["headline"]
            key = (headline["metric"], headline["variant"])
            own = [each for each in averages(record) if each.key == key]
            shown.append({each.point: each for each in own})
            what.append(f"{key[1]} {metric_name(key[0])}{own[0].how_to_read if own else ''}")
        points = sorted({*shown[0], *shown[1]}, key=sort_key)
        cells = [[heading(point), *(each[point].text if point in each else "" for each in shown)] for point in points]
        names_of = (
            ("A", "B") if what[0] == what[1] else tuple(f"{letter}: {name}" for letter, name in zip("AB", what, strict=True))
        )
        title = f"Scores: {what[0]}" if what[0] == what[1] else "Scores"
        if not self.compared:
            return Section(title, (), ("point", *names_of), cells, lines=[] if cells else ["there is no score yet"])
        texts = {each.a.point: each.texts for each in self.compared}
        rows = [[*row, *texts.get(point, ("", ""))] for point, row in zip(points, cells, strict=True)]
        return Section(title, (), ("point", *names_of, "A - B", "95 % interval"), rows)

    def _of_classes(self) -> list[Section]:
        """Return the classes whose values differ most at the decisive point."""
        if self.decisive is None:
            return []
        a, b = self.decisive.a, self.decisive.b
        both = [(name, x, y) for name, x in a.classes.items() if x is not None and (y := b.classes.get(name)) not in (None, x)]
        ordered = sorted(both, key=lambda each: -abs(each[1] - each[2]))
        digits = a.digits
        rows = [(name, f"{x:.{digits}f}", f"{y:.{digits}f}", f"{x - y:+.{digits}f}") for name, x, y in ordered[:CLASSES]]
        title = f"Classes that differ most at {a.heading}: {a.variant} {metric_name(a.metric)}{a.how_to_read}"
        more = [f"and {len(ordered) - CLASSES} more"] if len(ordered) > CLASSES else []
        return [Section(title, (), ("class", "A", "B", "A - B"), rows, lines=more)] if rows else []


def _machine(record: dict[str, Any]) -> dict[str, Any]:
    return {"device": record["run"].get("device"), **{name: record["environment"].get(name) for name in MACHINE}}


def _runtime(run: dict[str, Any]) -> dict[str, Any]:
    """Return the runtime options of a run; those of older records have another key."""
    return {**run.get("runtime", run.get("means", {}))}


def _title(record: dict[str, Any], path: Path | None) -> str:
    protocol = record["protocol"]
    where = f", {path}" if path is not None else ""
    of = f"{protocol['name']}/{protocol['preset']} v{protocol['version']}"
    return f"{record['id']}: {names(record)[0]} on {record['dataset']['name']}, {of}{where}"
