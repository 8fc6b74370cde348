"""Records: everything that makes a score meaningful, one JSON file a run, written atomically after every score.

A record's id follows from what was measured (protocol settings, data set, backbone, limit, and the code of each that is the
user's own), so a second run finds the record of the first and continues it, and two processes that write to one folder merge
their scores under a lock.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from densebench.backbones import without_labels
from densebench.errors import UserError
from densebench.files.atomic import digest, locked, sweep, write_text
from densebench.files.stored_json import ShapeError, load, parse
from densebench.results.record_schema import check_record
from densebench.results.score import Point, Score, point_of

SCHEMA = 2
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "pillow",
    "faiss-cpu",
    "scann",
    "mmsegmentation",
    "mmengine",
    "mmcv-lite",
    "pycocotools",
)


def _points(record: dict[str, Any], headline: dict[str, str]) -> set[Point]:
    return {point_of(score) for score in record["scores"] if headline.items() <= score.items()}


def _identity(score: dict[str, Any]) -> tuple[Any, ...]:
    return score["metric"], score["variant"], *sorted(point_of(score))


def group_of(header: dict[str, Any]) -> str:
    """The digest of what two numbers must share to stand in one table."""
    protocol, dataset = header["protocol"], header["dataset"]
    parts = [protocol[name] for name in ("name", "version", "settings")]
    code = {kind: own["code"] for kind, own in (("protocol", protocol), ("dataset", dataset)) if own.get("code")}
    return digest([*parts, dataset["name"], dataset["split"], dataset["digest"], *([code] if code else [])], 8)


def identity_of(header: dict[str, Any]) -> str:
    """Return the id of a record, made from its group, the limit, and everything of the backbone but its names."""
    return digest([group_of(header), without_labels(header["backbone"]), header["dataset"]["limit"]], 8)


def writer_lives(run: dict[str, Any]) -> bool | None:
    """Return whether the process that a record's `run` names as its writer is alive; None where it cannot be known from here."""
    owner = run.get("owner")
    if owner is None or owner["host"] != platform.node():
        return None
    try:
        os.kill(owner["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return bool(owner["pid"] > 0)


class Record:
    """One record on disk. Every change is written at once; scores of other processes are kept."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.id = identity_of(header)
        self._owner: dict[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """The record as it is on disk."""
        return read(self.path)

    def points(self) -> set[Point]:
        """The points whose headline is on disk: it is written last, so nothing of them is missing."""
        return _points(self.json(), self.header["protocol"]["headline"])

    def start(self, run: dict[str, Any]) -> None:
        """Note that a run begins, and with what. From now on the record belongs to this run, until another one begins."""
        with self._changing() as record:
            self._owner = {"id": uuid.uuid4().hex, "pid": os.getpid(), "host": platform.node()}
            was = {"was_complete": True} if record["status"] == "complete" else {}
            run = {**record["run"], **was, **run, "owner": self._owner}
            record.update(status="running", run=run, code=code(), environment=environment())

    def add(self, scores: Sequence[Score]) -> None:
        """Write scores; one with the same metric, variant and axes is replaced. A record that grows has not failed."""
        with self._changing() as record:
            kept = {_identity(score): score for score in record["scores"]}
            kept.update({_identity(score): score for score in (score.json() for score in scores)})
            record["scores"] = [kept[key] for key in sorted(kept, key=_order)]
            record["status"] = "running" if record["status"] == "failed" else record["status"]

    def finish(self, status: str, run: dict[str, Any], points: Iterable[Point] = ()) -> None:
        """Close a run as complete or failed.

        A record is complete once a run has found or written all `points` that it was asked for, and it stays so: a later run that
        adds points takes nothing away, so even if that one fails or is interrupted, the record still holds a whole run
        and more. A run that fails says so only where no other run has begun since, for then the record belongs to that one.
        """
        with self._changing() as record:
            before, owner = record["run"], record["run"].get("owner")
            mine = owner is None or owner == self._owner or writer_lives(before) is False
            if status == "complete" and set(points) <= _points(record, self.header["protocol"]["headline"]):
                record["status"] = "complete"
            elif status == "failed" and mine and record["status"] != "complete":
                record["status"] = "complete" if before.get("was_complete") else "failed"
            if mine:
                kept = {name: value for name, value in before.items() if name not in ("owner", "was_complete")}
                record["run"] = {**kept, **run}

    def _blank(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "id": self.id,
            "status": "running",
            "group": group_of(self.header),
            **self.header,
            "scores": [],
            "run": {},
            "code": code(),
            "environment": environment(),
        }

    @contextmanager
    def _changing(self, *, afresh: bool = False) -> Iterator[dict[str, Any]]:
        with locked(self.path.parent):
            record = self._blank() if afresh or not self.path.exists() else read(self.path)
            yield record
            write_text(self.path, self._text(record))

    def _text(self, record: dict[str, Any]) -> str:
        """Return a record as JSON that can be read again. Raises UserError for anything else, before the file is touched."""
        try:
            text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            text = re.sub(
                "[\ud800-\udfff]", lambda own: f"\\\\u{ord(own[0]):x}", text
            )  # bytes of a file's name that are not text
            check_record(parse(text.encode()))
        except (TypeError, ValueError) as error:
            what = f"what {self.header['protocol']['name']} gave cannot be kept in {self.path}"
            raise UserError(f"{what}: the record then {error}; what was there before stays") from error
        return text


class Follower(Record):
    """A record as processes beside the one that writes see it: what is on disk, and nothing is changed."""

    def __init__(self, results: Path, header: dict[str, Any]) -> None:
        super().__init__(_path(results, header), header)

    @contextmanager
    def _changing(self, *, afresh: bool = False) -> Iterator[dict[str, Any]]:
        yield {"status": "running", "run": {}, "scores": []}


def _path(results: Path, header: dict[str, Any]) -> Path:
    return results / "records" / f"{identity_of(header)}.json"


def _order(identity: tuple[Any, ...]) -> list[tuple[str, float, str]]:
    def rank(value: Any) -> tuple[str, float, str]:
        number = float(value) if isinstance(value, int | float) else -1.0
        return ("", number, "") if not isinstance(value, str) else (value, 0.0, "")

    axes = [part for key, value in identity[2:] for part in ((key, 0.0, ""), rank(value))]
    return [*axes, (identity[0], 0.0, ""), (identity[1], 0.0, "")]


def open_or_create(results: Path, header: dict[str, Any], *, rerun: bool = False) -> Record:
    """Return the record for `header` (backbone, protocol, dataset), new or continued; `rerun` empties it first.

    A name may be given later; nothing else that a record says about its backbone is ever overwritten.
    """
    record = Record(_path(results, header), header)
    with record._changing(afresh=rerun) as content:
        content["backbone"].update({key: value for key, value in header["backbone"].items() if key == "name"})
    return record


def check_writable(results: Path) -> None:
    """Raise UserError where records cannot be written, before any work is done. Removes what killed runs left half written."""
    folder = results / "records"
    with locked(folder):
        write_text(folder / ".writable", "")
        (folder / ".writable").unlink()
    for name in ("records", "pictures"):
        sweep(results / name)


def read(path: Path) -> dict[str, Any]:
    """Read a record, whose shape is that of `record_schema.Record`.

    Raises UserError, which names the file and the field, where it is broken, renamed or of a newer schema.
    """
    try:
        record = load(path)
        schema = record.get("schema") if isinstance(record, dict) else None
        if type(schema) is int and schema != SCHEMA:
            remedy = "upgrade densebench" if schema > SCHEMA else "score again and remove it"
            raise UserError(f"the record {path} has schema {schema}, this version reads {SCHEMA}; {remedy}")
        check_record(record)
    except ShapeError as error:
        raise UserError(f"the record {path} {error}; remove it and score again") from error
    if path.stem != record["id"]:
        raise UserError(f"the record {path} has the id {record['id']}: it is a copy; remove it or name it {record['id']}.json")
    return record  # type: ignore[no-any-return]


@functools.cache
def code() -> dict[str, Any]:
    """The version of densebench, and the commit of its checkout if it runs from one."""
    version = importlib.metadata.version("densebench")
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    inside = git("ls-files", "--error-unmatch", __file__) is not None
    commit = git("rev-parse", "HEAD") if inside else None
    # Only what runs: the records that lie in a checkout would make every run after the first one dirty.
    sources = git("status", "--porcelain", "--", ":(top)*.py", ":(top,exclude)tests")
    return {"densebench": version, "commit": commit, "dirty": bool(sources) if commit else None}


@functools.cache
def environment() -> dict[str, str]:
    """Versions of what the numbers pass through, and the machine."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "system": f"{platform.system()} {platform.machine()}", "cpu": _cpu()}


def _cpu() -> str:
    """The processor's model; what the system calls it where /proc does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
