"""One record for people: what was measured, how it differs from its preset, what it cost, and how to reproduce it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from densebench.console import one_line
from densebench.results import coverage
from densebench.results.agreement import Expected, Presets
from densebench.results.averages import Average, averages
from densebench.results.frame import remark_of
from densebench.results.lookup import lookup, names
from densebench.results.provenance import is_rehearsal
from densebench.results.record_keeping import state
from densebench.results.score import SIGNS, decides, point_of, sort_key
from densebench.results.sheet import Section, text
from densebench.results.tables import metric_name

UNFINISHED = {
    "running": "a run is writing it: more points may come",
    "stopped": "its run was killed: its command resumes it",
    "failed": "its run failed; it enters no table",
}


def show(record: str | Path | dict[str, Any], results: str | Path | Sequence[str | Path] = "results") -> Shown:
    """Return a record for people: `print(show("0f62"))`.

    record: the path of its file, its id, a unique prefix of it, or the name of its backbone (`lookup.lookup`); or its values.
    Raises UserError where there is no such record, or more than one.
    """
    if isinstance(record, dict):
        return Shown(record)
    path, values = lookup(record, results)
    return Shown(values, path)


@dataclass(frozen=True)
class Shown:
    """A record, its parts in words, and the file where it lies. It prints as `densebench show` does in a pipe."""

    record: dict[str, Any]
    path: Path | None = None

    def __str__(self) -> str:
        return text(self.sections()).rstrip("\n")

    @cached_property
    def averages(self) -> list[Average]:
        """Its numbers, each the mean over seeds."""
        return averages(self.record)

    @cached_property
    def expected(self) -> Expected:
        """What its preset is today. Nothing is imported because the record names it."""
        protocol, dataset = self.record["protocol"], self.record["dataset"]
        return Expected() if protocol["code"] else Presets().expected(protocol["name"], protocol["preset"], dataset["name"])

    @cached_property
    def changed(self) -> dict[str, tuple[Any, Any]] | None:
        """The settings that differ from the preset: the record's value and the preset's. None where nobody knows the preset."""
        usual, own = self.expected.settings, self.record["protocol"]["settings"]
        if usual is None:
            return None
        known = [name for name in {**own, **usual} if name in usual or self.expected.complete]
        return {name: (own.get(name), usual.get(name)) for name in known if own.get(name) != usual.get(name)}

    @cached_property
    def marks(self) -> list[str]:
        """What a reader must know before using its numbers."""
        protocol, today = self.record["protocol"], self.expected.version
        if today is None or today == protocol["version"]:
            return marks_of(self.record)
        return [*marks_of(self.record), f"version {protocol['version']} of {protocol['name']}, which today is version {today}"]

    def json(self) -> dict[str, Any]:
        """Return the record as JSON values: its parts, with settings set beside the preset and numbers averaged over seeds."""
        record, point = self.record, self._classes
        changed = None if self.changed is None else {
            name: {"value": own, "preset": usual} for name, (own, usual) in self.changed.items()
        }  # fmt: skip
        return {
            "id": record["id"], "file": None if self.path is None else str(self.path), "status": state(record),
            "group": record["group"], "marks": self.marks, "backbone": record["backbone"],
            "protocol": {**record["protocol"], "changed": changed, "version_today": self.expected.version},
            "dataset": record["dataset"], "scores": [average.json() for average in self.averages],
            "classes": None if point is None else {"point": dict(point.point), "values": point.classes},
            **{name: record[name] for name in ("run", "code", "environment")},
        }  # fmt: skip

    def sections(self) -> list[Section]:
        """Return the record as sections to print."""
        record, protocol = self.record, self.record["protocol"]
        name = (
            f"{names(record)[0]} on {record['dataset']['name']}, {protocol['name']}/{protocol['preset']} v{protocol['version']}"
        )
        where = [("file", str(self.path))] if self.path is not None else []
        facts = [("record", f"{record['id']}, {state(record)}, group {record['group']}"), *where]
        parts = [
            Section(name, [*facts, *(("note", mark) for mark in self.marks)]),
            Section("Backbone", backbone_facts(record["backbone"])),
            self._protocol(),
            Section("Data set", dataset_facts(record["dataset"])),
            *self._scores(),
            Section("Run", run_facts(record)),
            Section("Made with", made_facts(record)),
            Section("Command that reproduces it", commands=command_lines(record["run"].get("command", ""))),
        ]
        return [part for part in parts if not part.is_empty]

    def _protocol(self) -> Section:
        protocol = self.record["protocol"]
        facts = [("protocol", f"{protocol['name']}/{protocol['preset']}, version {protocol['version']}")]
        facts += [("code", f"the user's own, {protocol['code']}")] if protocol["code"] else []
        if self.changed is None:
            facts.append(("settings", "the preset is not known here, so all are listed"))
            return Section("Protocol", facts, ("setting", "value"), [(n, words(v)) for n, v in protocol["settings"].items()], 2)
        if not self.changed:
            return Section("Protocol", [*facts, ("settings", "as in the preset")])
        rest = len(protocol["settings"]) - sum(name in protocol["settings"] for name in self.changed)
        facts.append(("settings", f"{rest} as in the preset, {len(self.changed)} changed"))
        rows = [(name, words(own), words(usual)) for name, (own, usual) in self.changed.items()]
        return Section("Protocol", facts, ("setting", "value", "preset"), rows, 3)

    def _scores(self) -> list[Section]:
        headline = self.record["protocol"]["headline"]
        shown = [average for average in self.averages if average.key == (headline["metric"], headline["variant"])]
        found = []
        if shown:
            title = f"Scores: {shown[0].variant} {metric_name(shown[0].metric)}{shown[0].how_to_read}"
            rows = [(each.heading, each.text, each.interval, str(each.seeds or "")) for each in shown]
            found.append(_without_blank(Section(title, (), ("point", "value", "95 % interval", "seeds"), rows)))
        else:
            found.append(Section("Scores", lines=["there is no score yet"]))
        others = [average for average in self.averages if average.key != (headline["metric"], headline["variant"])]
        return [*found, *_others(others), *([] if self._classes is None else [_of_classes(self._classes)])]

    @property
    def _classes(self) -> Average | None:
        """The number whose classes are shown: of the headline, or else of any metric, at the point that ranks go by."""
        headline = self.record["protocol"]["headline"]
        having = [average for average in self.averages if average.classes]
        own = [average for average in having if average.key == (headline["metric"], headline["variant"])]

        def preferred(average: Average) -> tuple[bool, Any]:
            return decides(self.record["protocol"], dict(average.point)), sort_key(average.point)

        return max(own or having, key=preferred, default=None)


def marks_of(record: dict[str, Any]) -> list[str]:
    """Return what a reader must know before using the numbers of a record, as far as it says so itself."""
    dataset = record["dataset"]
    found = [UNFINISHED[word]] if (word := state(record)) in UNFINISHED else []
    if is_rehearsal(record):
        found.append("made in a rehearsal of a table (--set); it enters no table")
    if dataset["limit"] is not None:
        found.append(f"cut to {dataset['limit']:,} {coverage.unit(dataset)} of each split (--limit); it enters no table")
    elif coverage.partial(dataset):
        found.append(f"{coverage.images(dataset)}: {coverage.WARNING}")
    if isinstance(shard := record.get("shard"), dict):
        found.append(f"shard {shard.get('index')}/{shard.get('of')} of a record; `densebench merge` joins them")
    return [*found, *([remark] if (remark := remark_of(record["protocol"]["settings"])) else [])]


def _others(others: Sequence[Average]) -> list[Section]:
    """Return a table of the other metrics and variants, a column for each point."""
    if not others:
        return []
    points = sorted({average.point for average in others}, key=sort_key)
    headings = {average.point: average.heading for average in others}
    rows = []
    for key in dict.fromkeys(average.key for average in others):
        values = {average.point: average.text for average in others if average.key == key}
        of_key = next(average for average in others if average.key == key)
        named = f"{metric_name(of_key.metric)}{of_key.how_to_read}"
        rows.append((named, of_key.variant, *(values.get(point, "") for point in points)))
    columns = ("metric", "variant", *(headings[point] for point in points))
    return [Section("Other metrics and variants", (), columns, rows, 2)]


def _of_classes(average: Average) -> Section:
    """Return the classes of a number, the best first; those without a value last."""
    sign, digits = SIGNS[average.direction], average.digits
    known = {name: value for name, value in average.classes.items() if value is not None}
    ordered = sorted(known, key=lambda name: -sign * known[name])
    rows = [(name, f"{known[name]:.{digits}f}") for name in ordered]
    missing = [name for name in average.classes if name not in known]
    lines = [f"without a value: {', '.join(missing)}"] if missing else []
    title = f"Classes at {average.heading}: {average.variant} {metric_name(average.metric)}{average.how_to_read}"
    return Section(title, (), ("class", "value"), rows, lines=lines)


def _without_blank(section: Section) -> Section:
    """Return a section without the columns that are blank in every row."""
    kept = [place for place in range(len(section.columns)) if any(row[place] for row in section.rows)]
    rows = [[row[place] for place in kept] for row in section.rows]
    return Section(section.title, section.facts, [section.columns[place] for place in kept], rows, section.labels, section.lines)


def words(value: Any) -> str:
    """Return a value of a setting as a short text: "none", "1, 8, 64", "true"."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, list):
        return ", ".join(map(words, value)) or "none"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def backbone_facts(backbone: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a record says of its backbone, as labels and texts."""
    params = backbone.get("params")
    sizes = [f"width {backbone['dim']}", f"stride {backbone['stride']} px", f"layer {backbone.get('layer', 'last')}"]
    sizes += [f"positions {backbone['pos_embed']}"] if backbone.get("pos_embed", "none") != "none" else []
    sizes += [f"{backbone['debias']} positional directions projected out"] if backbone.get("debias") else []
    sizes += [f"upsampled by {backbone['upsample']}"] if backbone.get("upsample") else []
    count = "" if not params else f"{params / 1e6:,.1f}M parameters" if params >= 1e5 else f"{params:,} parameters"
    model = [backbone["arch"], count]
    facts = [("name", backbone.get("name", "")), ("spec", backbone["spec"]), ("model", ", ".join(filter(None, model)))]
    facts += [("features", ", ".join(sizes)), ("read from", backbone.get("recognised", ""))]
    facts += [("colours", f"mean {words(backbone['mean'])}; deviation {words(backbone['std'])}")]
    facts += [("weights", f"{backbone['digest'][:16]} (SHA-256)"), ("origin", backbone.get("origin", ""))]
    facts += [("code", f"the user's own, {backbone['code'][:16]}" if backbone["code"] else "")]
    return [(label, value) for label, value in facts if value]


def dataset_facts(dataset: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a record says of its data set, as labels and texts."""
    own = {"name", "split", "images", "train_split", "train_images", "official_images", "official_train_images", "digest"}
    own |= {"limit", "code", "left_out", "pairs", "official_pairs"}
    facts = [("data set", f"{dataset['name']} {dataset['split']}"), ("images", coverage.images(dataset))]
    if "train_split" in dataset:
        count = f", {dataset['train_images']:,} images" if "train_images" in dataset else ""
        facts.append(("training", f"{dataset['train_split']}{count}"))
    if dataset.get("left_out"):
        facts.append(("left out", f"{dataset['left_out']:,} images that the protocol cannot use"))
    facts += [("limit", f"{dataset['limit']:,} {coverage.unit(dataset)} of each split")] if dataset["limit"] is not None else []
    facts += [(name.replace("_", " "), words(value)) for name, value in dataset.items() if name not in own]
    facts += [("digest", dataset["digest"])]
    return [*facts, *([("code", f"the user's own, {dataset['code'][:16]}")] if dataset["code"] else [])]


def run_facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return how a record was last written, as labels and texts: when, where, in how many seconds, at what cost."""
    run = record["run"]
    runtime = run.get("runtime", run.get("means", {}))
    options = ", ".join(f"{name} {words(value)}" for name, value in runtime.items())
    facts = [(name, str(run.get(name) or "")) for name in ("started", "device", "precision")]
    seconds = {name: value for name, value in run.get("seconds", {}).items() if name != "total"}
    stages = " + ".join(f"{name} {value:,.1f}" for name, value in seconds.items())
    total = run.get("seconds", {}).get("total")
    facts += [("seconds", f"{total:,.1f} in all{f' = {stages}' if stages else ''}" if total is not None else stages)]
    rates = {"images/s": ("images_per_second", ",.1f"), "TFLOP/s": ("tflop_per_second", ",.3g")}
    for label, (key, form) in rates.items():
        facts.append((label, ", ".join(f"{name} {value:{form}}" for name, value in run.get(key, {}).items())))
    memory = {"host": run.get("host_memory_mb"), "GPU": run.get("device_memory_mb"), "peak": run.get("peak_memory_mb")}
    facts.append(("memory", ", ".join(f"{name} {size / 1024:.1f} GiB" for name, size in memory.items() if size is not None)))
    energy = run.get("energy_joules")
    facts += [("energy", "" if energy is None else f"{energy / 1000:,.1f} kJ"), ("options", options)]
    points = len({point_of(score) for score in record["scores"]})
    if (scored := run.get("scored_points")) is not None and scored != points:
        facts.append(("costs", f"of the last run alone, which scored {scored} of {points} points"))
    return [(label, value) for label, value in facts if value]


def made_facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the code, the packages and the machine of a record, as labels and texts."""
    code, environment = record["code"], dict(record["environment"])
    changed = ", with changes that are not committed" if code.get("dirty") else ""
    commit = f", commit {str(code['commit'])[:12]}{changed}" if code.get("commit") else ""
    machine = ", ".join(environment.pop(name) for name in ("system", "cpu") if environment.get(name))
    packages = ", ".join(f"{name} {version}" for name, version in environment.items())
    facts = [("densebench", f"{words(code.get('densebench'))}{commit}"), ("packages", packages), ("machine", machine)]
    return [(label, value) for label, value in facts if value]


def command_lines(command: str) -> list[str]:
    """Return a command in lines of one option each, which a shell reads as one command; a short one is one line."""
    command = one_line(command).strip()
    if not command:
        return []
    try:
        parts = shlex.split(command)
    except ValueError:
        return [command]
    if len(command) <= 76 or shlex.join(parts) != command:
        return [command]
    lines: list[list[str]] = [[]]
    for part in parts:
        if part.startswith("--") and lines[-1]:
            lines.append([])
        lines[-1].append(part)
    joined = [shlex.join(line) for line in lines]
    return (" \\\n  ".join(joined)).split("\n")
