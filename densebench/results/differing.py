"""What differs between two records, and whether their numbers may be compared.

Two numbers may stand in one table where the records are of one group: the protocol with its version and all settings, the data
set with its split and content, and the user's own code of either (`record.group_of`). A limit, a rehearsal and a run that did not
end keep a record out of every table. What else differs (code, packages, machines) should decide no number, and is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from densebench.backbones import LABELS, without_labels
from densebench.console import one_line
from densebench.results import coverage
from densebench.results.averages import Average, averages, between
from densebench.results.lookup import lookup, names
from densebench.results.provenance import is_rehearsal
from densebench.results.ranking import bounds, lead
from densebench.results.record_keeping import state
from densebench.results.score import SIGNS, Point, heading, sort_key
from densebench.results.sheet import Section, text
from densebench.results.showing import words
from densebench.results.tables import metric_name

SHOWN = 3  # settings that the sentence names
ENDED = {"failed": "the run of {} failed", "running": "{} is still being written", "stopped": "the run of {} was killed"}
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
            "protocol": [*_differing(*protocols), *_differing(*settings)],
            "dataset": _differing(a["dataset"], b["dataset"]),
            "backbone": _differing(without_labels(a["backbone"]), without_labels(b["backbone"])),
            "names": _differing(*labels),
            "code": _differing(a["code"], b["code"]),
            "packages": _differing(*packages),
            "machine": [*_differing(*machines), *_differing(*runs)],
        }

    @cached_property
    def reasons(self) -> list[str]:
        """Why the numbers may not be compared; empty where they may."""
        found = []
        for letter, record in (("A", self.a), ("B", self.b)):
            if (word := state(record)) in ENDED:
                found.append(ENDED[word].format(letter))
            if is_rehearsal(record):
                found.append(f"{letter} was made in a rehearsal of a table (--set)")
        limits = [each["dataset"]["limit"] for each in (self.a, self.b)]
        if limits[0] != limits[1]:
            cut = [
                f"{letter} is cut to {limit:,} images" for letter, limit in zip("AB", limits, strict=True) if limit is not None
            ]
            found.append(f"{' and '.join(cut)} (--limit)")
        return [*self._other_group(), *found]

    def _other_group(self) -> list[str]:
        """Return why the records are of different groups."""
        if self.a["group"] == self.b["group"]:
            return []
        (a, b), (of_a, of_b) = [(self.a[kind], self.b[kind]) for kind in ("protocol", "dataset")]
        found = _other_data(of_a, of_b)
        splits = () if of_a["name"] == of_b["name"] else ("train_split", "eval_split")  # these follow from the data set
        settings = [each for each in _differing(a["settings"], b["settings"]) if each[0] not in splits]
        if a["name"] != b["name"]:
            found.append(f"the protocols are {one_line(a['name'])} and {one_line(b['name'])}")
        elif a["version"] != b["version"]:
            found.append(f"the versions of {one_line(a['name'])} are {a['version']} and {b['version']}")
        elif settings:
            each = [
                f"{one_line(name)} is {_short(first)} in A and {_short(second)} in B" for name, first, second in settings[:SHOWN]
            ]
            more = f", and {len(settings) - SHOWN} more settings differ" if len(settings) > SHOWN else ""
            found.append(f"{', '.join(each)}{more}")
        if a["name"] == b["name"] and a["code"] != b["code"]:
            found.append("the protocol's own code differs")
        return found or [f"their groups are {self.a['group']} and {self.b['group']}"]

    @cached_property
    def compared(self) -> list[Compared]:
        """The numbers of the headline of A at the points that both have; none where the numbers may not be compared."""
        if self.reasons:
            return []
        both = [{(each.key, each.point): each for each in averages(record)} for record in (self.a, self.b)]
        headline = self.a["protocol"]["headline"]
        key = (headline["metric"], headline["variant"])
        return [Compared(each, both[1][name]) for name, each in both[0].items() if name[0] == key and name in both[1]]

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
        if not self.compared:
            return f"{start}, but there is no point at which both have a score."
        last = max(self.compared, key=lambda each: sort_key(each.a.point))
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
        why = "what made the difference is the code, a package, the machine or what was done to a file"
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
        differing = [
            Section(TITLES[part], (), ("", "A", "B"), [(name, _short(first), _short(second)) for name, first, second in rows], 3)
            for part, rows in self.parts.items()
        ]
        same = [TITLES[part].partition(" (")[0].lower() for part, rows in self.parts.items() if not rows]
        return [
            Section("Two records", [*facts, *([("same", ", ".join(same))] if same else [])]),
            *(section for section in differing if not section.is_empty),
            self._scores(),
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


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the names whose values differ, those within dictionaries by dotted names; what is missing is None."""
    found = []
    for name in dict.fromkeys([*first, *second]):
        a, b = first.get(name), second.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [(f"{name}.{inner}", *values) for inner, *values in _differing(a, b)]
        elif a != b or isinstance(a, bool) != isinstance(b, bool):
            found.append((name, a, b))
    return found


def _other_data(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return in what the data of two records differ, of what makes a group."""
    if a["name"] != b["name"]:
        return [f"the data sets are {one_line(a['name'])} and {one_line(b['name'])}"]
    if a["split"] != b["split"]:
        return [f"the splits of {one_line(a['name'])} are {one_line(a['split'])} and {one_line(b['split'])}"]
    found = []
    if a["digest"] != b["digest"]:
        counts = "" if a["images"] == b["images"] else f", {a['images']:,} in A and {b['images']:,} in B"
        found.append(f"the images or labels of {one_line(a['name'])} {one_line(a['split'])} differ{counts}")
    return [*found, *(["the data set's own code differs"] if a["code"] != b["code"] else [])]


def _machine(record: dict[str, Any]) -> dict[str, Any]:
    return {"device": record["run"].get("device"), **{name: record["environment"].get(name) for name in MACHINE}}


def _runtime(run: dict[str, Any]) -> dict[str, Any]:
    """Return the runtime options of a run; those of older records have another key."""
    return {**run.get("runtime", run.get("means", {}))}


def _short(value: Any) -> str:
    """Return a value as a text; of a long digest the beginning."""
    shown = one_line(words(value))
    is_digest = len(shown) >= 16 and all(letter in "0123456789abcdef" for letter in shown)
    return shown[:12] if is_digest else shown


def _title(record: dict[str, Any], path: Path | None) -> str:
    protocol = record["protocol"]
    where = f", {path}" if path is not None else ""
    of = f"{protocol['name']}/{protocol['preset']} v{protocol['version']}"
    return f"{record['id']}: {names(record)[0]} on {record['dataset']['name']}, {of}{where}"
