"""Records: everything that makes a score meaningful, one JSON file a run, written atomically after every score.

A record's id follows from what was measured (protocol settings, data set, backbone, limit, and the code of each that is the
user's own). So a second run resumes the record of the first, and two processes that write to one folder merge their scores
under a lock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from densebench.backbones import without_labels
from densebench.errors import UserError
from densebench.files.atomic import digest, sweep, write_text
from densebench.files.locks import locked
from densebench.files.stored_json import ShapeError, load, parse
from densebench.results.provenance import code, environment, new_owner, writer_lives
from densebench.results.record_schema import check_record
from densebench.results.score import Point, Score, point_of

SCHEMA = 2


def group_of(header: dict[str, Any]) -> str:
    """Return the digest of what two numbers must share to stand in one table."""
    protocol, dataset = header["protocol"], header["dataset"]
    parts = [protocol[name] for name in ("name", "version", "settings")]
    sources = {kind: header[kind]["code"] for kind in ("protocol", "dataset") if header[kind].get("code")}
    return digest([*parts, dataset["name"], dataset["split"], dataset["digest"], *([sources] if sources else [])], 8)


def identity_of(header: dict[str, Any]) -> str:
    """Return the id of a record, made from its group, the limit, and everything of the backbone but its names."""
    return digest([group_of(header), without_labels(header["backbone"]), header["dataset"]["limit"]], 8)


class Record:
    """One record on disk. Every change is written at once; scores of other processes stay.

    A read-only record is for the processes beside the one that writes: it reads what is on disk, and its changes go nowhere.
    """

    def __init__(self, results: Path, header: dict[str, Any], *, read_only: bool = False) -> None:
        self.header, self.read_only = header, read_only
        self.id = identity_of(header)
        self.results, self.path = results, results / "records" / f"{self.id}.json"
        self._owner: dict[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """Return the record as it is on disk."""
        return self._read()

    def open(self, *, rerun: bool = False) -> Self:
        """Make the record, or resume it; `rerun` empties it first. Return it.

        A given name of the backbone is written; nothing else that a record says about its backbone is ever overwritten.
        """
        with self.changing(afresh=rerun) as content:
            content["backbone"].update({key: value for key, value in self.header["backbone"].items() if key == "name"})
        return self

    def own(self, points: Sequence[Point]) -> list[Point]:
        """Return which of the points of a request belong to this record: all of them."""
        return list(points)

    def points(self) -> set[Point]:
        """Return the points whose headline is on disk; it is written last, so all their scores are there."""
        return points_of(self.json(), self.header["protocol"]["headline"])

    def start(self, run: dict[str, Any]) -> None:
        """Mark the record as running, with the facts `run`. It belongs to this run until another one begins."""
        with self.changing() as record:
            self._owner = new_owner()
            was = {"was_complete": True} if record["status"] == "complete" else {}
            run = {**record["run"], **was, **run, "owner": self._owner}
            record.update(status="running", run=run, code=code(), environment=environment())

    def add(self, scores: Sequence[Score]) -> None:
        """Write scores; one with the same metric, variant and axes is replaced. A record that grows has not failed."""
        with self.changing() as record:
            by_key = {key_of(score): score for score in [*record["scores"], *(score.json() for score in scores)]}
            record["scores"] = [by_key[key] for key in sorted(by_key, key=order_of)]
            record["status"] = "running" if record["status"] == "failed" else record["status"]

    def finish(self, status: str, run: dict[str, Any], points: Iterable[Point] = ()) -> None:
        """Close a run as complete or failed.

        A record is complete once it holds all the `points` of a run, and it stays so: a later run only adds points, so even if it
        fails or is interrupted, the record still holds a whole run. A failed run is marked only where no other run has begun
        since, for then the record belongs to that one.
        """
        with self.changing() as record:
            before, owner = record["run"], record["run"].get("owner")
            mine = owner is None or owner == self._owner or writer_lives(before) is False
            if status == "complete" and set(points) <= points_of(record, self.header["protocol"]["headline"]):
                record["status"] = "complete"
            elif status == "failed" and mine and record["status"] != "complete":
                record["status"] = "complete" if before.get("was_complete") else "failed"
            if mine:
                rest = {name: value for name, value in before.items() if name not in ("owner", "was_complete")}
                record["run"] = {**rest, **run}

    @contextmanager
    def changing(self, *, afresh: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the record's JSON values, empty ones where it is new or begun `afresh`, and write them after the block."""
        if self.read_only:
            yield {"status": "running", "run": {}, "scores": []}
            return
        with locked(self.path.parent):
            record = self._blank() if afresh or not self.path.exists() else self._read()
            yield record
            write_text(self.path, self._text(record))

    def _read(self) -> dict[str, Any]:
        return read(self.path)

    def _blank(self) -> dict[str, Any]:
        head = {"schema": SCHEMA, "id": self.id, "status": "running", "group": group_of(self.header)}
        return {**head, **self.header, "scores": [], "run": {}, "code": code(), "environment": environment()}

    def _text(self, record: dict[str, Any]) -> str:
        """Return a record as JSON that can be read again. Raises UserError for anything else, before the file is touched."""
        try:
            return text_of(record)
        except (TypeError, ValueError) as error:
            what = f"what {self.header['protocol']['name']} gave cannot be saved in {self.path}"
            raise UserError(f"{what}: the record then {error}; what was there before stays") from error


def text_of(record: dict[str, Any]) -> str:
    """Return a record as JSON. Raises TypeError or ValueError, which says in words why, for what could not be read again."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Bytes of a file's name that are not text.
    text = re.sub("[\ud800-\udfff]", lambda match: f"\\\\u{ord(match[0]):x}", text)
    check_record(parse(text.encode()))
    return text


def points_of(record: dict[str, Any], headline: dict[str, str]) -> set[Point]:
    """Return the points of a record that hold its headline."""
    return {point_of(score) for score in record["scores"] if headline.items() <= score.items()}


def key_of(score: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a score, which is unique in a record."""
    return score["metric"], score["variant"], *sorted(point_of(score))


def order_of(key: tuple[Any, ...]) -> list[tuple[str, float, str]]:
    """Return a key that sorts scores by their axes, then by metric and variant."""

    def rank(value: Any) -> tuple[str, float, str]:
        number = float(value) if isinstance(value, int | float) else -1.0
        return ("", number, "") if not isinstance(value, str) else (value, 0.0, "")

    axes = [part for name, value in key[2:] for part in ((name, 0.0, ""), rank(value))]
    return [*axes, (key[0], 0.0, ""), (key[1], 0.0, "")]


def open_or_create(results: Path, header: dict[str, Any], *, rerun: bool = False) -> Record:
    """Return the record for `header` (backbone, protocol, dataset), new or resumed; `rerun` empties it first."""
    return Record(results, header).open(rerun=rerun)


def check_writable(results: Path) -> None:
    """Raise UserError where records cannot be written, before any work is done. Removes what killed runs left half written."""
    folder = results / "records"
    with locked(folder):
        write_text(folder / ".writable", "")
        (folder / ".writable").unlink()
    for name in ("records", "pictures", "shards"):
        sweep(results / name)


def read(path: Path) -> dict[str, Any]:
    """Return the values of a record, whose shape is that of `record_schema.Record`.

    Raises UserError, which names the file and the field, where the file is broken, renamed or of another schema.
    """
    record = read_any(path)
    if path.stem != record["id"]:
        raise UserError(f"the record {path} has the id {record['id']}: it is a copy; remove it or name it {record['id']}.json")
    return record


def read_any(path: Path) -> dict[str, Any]:
    """Return the values of a record, whatever its file is called. Raises UserError as `read` does."""
    try:
        record = load(path)
        schema = record.get("schema") if isinstance(record, dict) else None
        if type(schema) is int and schema != SCHEMA:
            remedy = "upgrade densebench" if schema > SCHEMA else "score again and remove it"
            raise UserError(f"the record {path} has schema {schema}, this version reads {SCHEMA}; {remedy}")
        check_record(record)
    except ShapeError as error:
        raise UserError(f"the record {path} {error}; remove it and score again") from error
    return record  # type: ignore[no-any-return]
