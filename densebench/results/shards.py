"""Shards: parts of one record, scored by jobs that cannot communicate, and the record that they make together.

A shard lies in RESULTS/shards/RECORD-ID/2-of-4.json. It is a record of the same header that holds every n-th point of the
request only, and says so under `shard`: its number, how many there are, and all points of the request. A protocol with one
point has nothing to deal out but the extraction of features: there a shard holds no score, and `shard.features` says how many
images it went through.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, Self, TypeVar

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from densebench.backbones import without_labels
from densebench.errors import UserError
from densebench.files.stored_json import Count, ShapeError, Text, check
from densebench.results.provenance import writer_lives
from densebench.results.record import Record, identity_of, key_of, order_of, points_of, read_any
from densebench.results.score import Point, point_of
from densebench.results.uniting import Version, label_of, united

T = TypeVar("T")
FOLDER = "shards"
MOST = 100_000
FILE = re.compile(r"([1-9]\d{0,5})-of-([1-9]\d{0,5})")
SHARED = ("schema", "id", "group", "protocol", "dataset")
"""What all shards of a record say alike, beside the backbone."""


class Facts(TypedDict):
    """What a shard says of itself."""

    index: Count
    of: Count
    points: list[dict[Text, Any]]
    features: NotRequired[dict[Text, Count]]


@dataclass(frozen=True)
class Shard:
    """A part of some work: every `of`-th piece of it, from the one numbered `index` (from 1) on."""

    index: int
    of: int

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the shard that "2/4" names. Raises UserError for anything else."""
        parts = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text) if isinstance(text, str) else None
        if parts is None or not 1 <= int(parts[1]) <= int(parts[2]) <= MOST:
            raise UserError(f"--shard {text}: give i/n, the i-th of n shards, such as 1/4 to 4/4 (at most {MOST:,})")
        return cls(int(parts[1]), int(parts[2]))

    def of_work(self, work: Sequence[T]) -> list[T]:
        """Return the pieces of some work that belong to this shard."""
        return list(work[self.index - 1 :: self.of])

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


class ShardRecord(Record):
    """The record of one shard on disk. requested: all points of the request, of which the shard has its own."""

    def __init__(
        self, results: Path, header: dict[str, Any], shard: Shard, requested: Sequence[Point], *, read_only: bool = False
    ) -> None:
        super().__init__(results, header, read_only=read_only)
        self.shard, self.requested = shard, list(requested)
        self.path = results / FOLDER / self.id / f"{shard.index}-of-{shard.of}.json"

    def own(self, points: Sequence[Point]) -> list[Point]:
        """Return which of the points of a request belong to this shard."""
        return self.shard.of_work(points)

    def open(self, *, rerun: bool = False) -> Self:
        """Make the shard, or resume it; `rerun` empties it first. If the request has changed, it is unfinished."""
        super().open(rerun=rerun)
        with self.changing() as content:
            facts = self.facts()
            if {name: content["shard"][name] for name in facts} != facts:  # resumed for more or fewer points
                content.update(shard=facts, status="running", run={})
        return self

    def note_features(self, images: int, available: int, run: dict[str, Any]) -> None:
        """Note that the shard went through so many of the available images of a protocol with one point, and close it."""
        with self.changing(afresh=True) as content:
            content["shard"]["features"] = {"images": images, "of": available}
            content.update(status="complete", run=run)

    def facts(self) -> dict[str, Any]:
        """Return what the shard says of itself."""
        return {"index": self.shard.index, "of": self.shard.of, "points": [dict(point) for point in self.requested]}

    def _blank(self) -> dict[str, Any]:
        return {**super()._blank(), "shard": self.facts()}

    def _read(self) -> dict[str, Any]:
        return read_shard(self.path)


def read_shard(path: Path) -> dict[str, Any]:
    """Return the values of a shard. Raises UserError, which names the file, for a broken, renamed or edited one."""
    record = read_any(path)
    try:
        check(record.get("shard"), _FACTS)
    except ShapeError as error:
        raise UserError(f"the shard {path} {error}; remove it and score again") from error
    named, facts = FILE.fullmatch(path.stem), record["shard"]
    if named is None or (int(named[1]), int(named[2])) != (facts["index"], facts["of"]) or not 1 <= facts["index"] <= facts["of"]:
        raise UserError(f"the shard {path} says that it is {facts['index']} of {facts['of']}; remove it and score again")
    if not path.parent.name == record["id"] == identity_of(record):
        raise UserError(f"the shard {path} is not of the record that its folder names; remove it and score again")
    return record


@dataclass
class Assembled:
    """The records that shards make together; what is not whole and why, a line each; and what a reader should also know."""

    versions: list[Version] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def assembled(folders: Sequence[Path], prefer: Path | None = None) -> Assembled:
    """Return the records whose shards are all in these results folders; missing, contradictory and unfinished shards are named.

    prefer: the folder whose shard counts where two folders have the same one with other scores.
    """
    result = Assembled()
    shards: dict[str, dict[tuple[int, int], list[Version]]] = {}
    for folder in folders:
        for version in _shards_of(folder, result):
            facts = version.record["shard"]
            of_record = shards.setdefault(version.record["id"], {})
            of_record.setdefault((facts["of"], facts["index"]), []).append(version)
    for name in sorted(shards):
        try:
            _assemble(shards[name], prefer, folders, result)
        except UserError as error:
            result.problems.append(str(error))
    return result


def _shards_of(folder: Path, result: Assembled) -> Iterator[Version]:
    for path in sorted((folder / FOLDER).glob("*/*-of-*.json")):
        try:
            yield Version(str(path), (folder,), read_shard(path))
        except UserError as error:
            result.problems.append(str(error))


def _assemble(
    copies: dict[tuple[int, int], list[Version]], prefer: Path | None, folders: Sequence[Path], result: Assembled
) -> None:
    """Make one record of its shards, by number of all and number. Raises UserError, in one line, where it cannot be made."""
    first = next(iter(copies.values()))[0].record
    label = label_of(first)
    if len(numbers := sorted({of for of, _ in copies})) > 1:
        files = [copies[min(key for key in copies if key[0] == of)][0].where for of in numbers]
        raise UserError(f"{label} has shards of {' and of '.join(map(str, numbers))}: {', '.join(files)}; remove those of one")
    of = numbers[0]
    shards = [_one(copies[key], prefer, label, result) for key in sorted(copies)]
    if missing := [str(Shard(index, of)) for index in range(1, of + 1) if (of, index) not in copies]:
        command = _command(first, missing[0])
        here = f"{of - len(missing)} of {of} shards are here"
        raise UserError(f"{label}: {here}; missing: {_some(missing)}; run `{command}`")
    for shard in shards:
        _check_whole(shard, label)
        _check_alike(shards[0], shard, label)
    if any("features" in shard.record["shard"] for shard in shards):
        if not any((folder / "records" / f"{first['id']}.json").exists() for folder in folders):
            command = _command(first)
            result.notices.append(f"{label}: all {of} shards have extracted features, and hold no score; `{command}` scores it")
        return
    if len({str(shard.record["code"]) for shard in shards}) > 1:
        result.notices.append(f"{label}: its shards were scored by different states of the code; the record names the first")
    folders = tuple(dict.fromkeys(folder for shard in shards for folder in shard.folders))
    where = f"the shards in {' and '.join(map(str, folders))}"
    result.versions.append(Version(where, folders, _joined([shard.record for shard in shards])))


def _one(copies: Sequence[Version], prefer: Path | None, label: str, result: Assembled) -> Version:
    """Return the one shard that copies in several folders stand for. Raises UserError where they contradict each other.

    A whole copy stands for one that is not finished.
    """
    whole = [copy for copy in copies if copy.record["status"] == "complete"] or list(copies)
    favourite = next((copy for copy in whole if prefer is not None and prefer.resolve() == copy.folders[0].resolve()), None)
    _, clashes, _ = united(whole, favourite)
    which = Shard(copies[0].record["shard"]["index"], copies[0].record["shard"]["of"])
    if clashes:
        twice = f"shard {which} is there twice, with other scores: {clashes[0]}"
        raise UserError(f"{label}: {twice}; --prefer FOLDER says whose scores count")
    if len(copies) > 1:
        where = " and in ".join(str(copy.folders[0]) for copy in copies)
        result.notices.append(f"{label}: shard {which} is in {where}, with equal scores")
    return favourite or whole[0]


def _check_whole(shard: Version, label: str) -> None:
    """Raise UserError for a shard that is being written or was not finished."""
    record, facts = shard.record, shard.record["shard"]
    which = Shard(facts["index"], facts["of"])
    if record["status"] == "running" and writer_lives(record["run"]):
        pid = record["run"]["owner"]["pid"]
        raise UserError(f"{label}: shard {which} is being written by process {pid}; merge again when it is done")
    held = points_of(record, record["protocol"]["headline"])
    lacking = [point for point in _own(record) if point not in held]
    if "features" not in facts and (record["status"] != "complete" or lacking):
        have = len(_own(record)) - len(lacking)
        unfinished = f"shard {which} ({shard.where}) is not finished: {have} of its {len(_own(record))} points are there"
        raise UserError(f"{label}: {unfinished}; `{_command(record, str(which))}` resumes it")


def _check_alike(first: Version, shard: Version, label: str) -> None:
    """Raise UserError for two shards of different requests."""
    one, other = first.record, shard.record
    different = [name for name in SHARED if one[name] != other[name]]
    if without_labels(one["backbone"]) != without_labels(other["backbone"]):
        different.append("backbone")
    if one["shard"]["points"] != other["shard"]["points"] or ("features" in one["shard"]) != ("features" in other["shard"]):
        different.append("points")
    if different:
        what = f"{first.where} and {shard.where} are of different requests ({', '.join(different)})"
        raise UserError(f"{label}: {what}; score one of them again")


def _own(record: dict[str, Any]) -> list[Point]:
    """Return the points that belong to a shard."""
    points = [tuple(point.items()) for point in record["shard"]["points"]]
    return Shard(record["shard"]["index"], record["shard"]["of"]).of_work(points)


def _joined(shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the record that one run of all shards would have written: what one run costs is their sum."""
    own = [{*_own(shard)} for shard in shards]
    scores = [score for shard, points in zip(shards, own, strict=True) for score in shard["scores"] if point_of(score) in points]
    record = {name: value for name, value in shards[0].items() if name != "shard"}
    record["backbone"] = next((shard["backbone"] for shard in shards if "name" in shard["backbone"]), record["backbone"])
    record["scores"] = sorted(scores, key=lambda score: order_of(key_of(score)))
    return {**record, "status": "complete", "run": _run([shard["run"] for shard in shards])}


def _run(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the facts of the runs of all shards as those of one: times and energy add up, of memory the most counts."""
    kept = {name: value for name, value in runs[0].items() if name in ("device", "precision", "runtime", "drawn")}
    run: dict[str, Any] = {"command": shlex.join(_without_shard(runs[0].get("command", ""))), **kept}
    if any(each.get("rehearsal") for each in runs):
        run["rehearsal"] = True
    if started := [each["started"] for each in runs if "started" in each]:
        run["started"] = min(started)
    run["scored_points"] = sum(each.get("scored_points", 0) for each in runs)
    stages = dict.fromkeys(name for each in runs for name in each.get("seconds", {}))
    run["seconds"] = {name: round(sum(each.get("seconds", {}).get(name, 0.0) for each in runs), 3) for name in stages}
    for name, combine in (("host_memory_mb", max), ("device_memory_mb", max), ("energy_joules", sum)):
        values = [each[name] for each in runs if each.get(name) is not None]
        if len(values) == len(runs):
            run[name] = combine(values)
    return run


def _without_shard(command: str) -> list[str]:
    """Return the words of a command without its --shard; none where they cannot be read."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    values = [index + 1 for index, word in enumerate(words) if word == "--shard"]
    return [
        word for index, word in enumerate(words) if index not in values and word != "--shard" and not word.startswith("--shard=")
    ]


def _command(record: dict[str, Any], shard: str | None = None) -> str:
    """Return the command that scores a shard of a record, or all of it."""
    words = [word for word in _without_shard(record["run"].get("command", "")) if word != "--rerun"]
    words = words or ["densebench", "eval", "--protocol", record["protocol"]["name"], "..."]
    return shlex.join([*words, *(["--shard", shard] if shard else [])]).replace("'...'", "...")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


_FACTS = TypeAdapter(Facts)
