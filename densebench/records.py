"""Records: everything that makes a score meaningful, one JSON file a run, written atomically after every score.

A record's id follows from what was measured (protocol settings, data set, weights, limit), so a second run finds the record of
the first and continues it, and two processes that write to one folder merge their scores under a lock.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from densebench.errors import UserError
from densebench.evaluator import Point
from densebench.files import digest, write_text

SCHEMA = 1
PACKAGES = ("torch", "timm", "numpy", "scipy", "pandas", "pillow", "faiss-cpu", "scann")
REQUIRED = ("schema", "id", "status", "group", "backbone", "protocol", "dataset", "scores", "run", "code", "environment")


@dataclass(frozen=True)
class Score:
    """One number: what it is, in which variant, at which point of the axes, and how sure it is.

    value and ci95 are in `unit`; bootstrap holds the values of resampled image sets, drawn alike for everybody; per_class has
    None for a class in neither truth nor prediction.
    """

    metric: str
    variant: str
    value: float
    unit: str = "%"
    axes: dict[str, Any] = field(default_factory=dict)
    ci95: tuple[float, float] | None = None
    per_class: dict[str, float | None] = field(default_factory=dict)
    bootstrap: tuple[float, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The score as JSON values, the axes at the top level."""
        found: dict[str, Any] = {
            "metric": self.metric,
            "variant": self.variant,
            "value": self.value,
            "unit": self.unit,
            **self.axes,
        }
        if self.ci95 is not None:
            found["ci95"] = list(self.ci95)
        if self.details:
            found["details"] = self.details
        if self.per_class:
            found["per_class"] = self.per_class
        if self.bootstrap:
            found["bootstrap"] = encode(self.bootstrap)
        return found


def encode(values: Sequence[float]) -> str:
    """Numbers as base64 of little-endian float32."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")


def decode(text: str) -> np.ndarray:
    """The numbers of `encode`."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


OWN_KEYS = frozenset({"metric", "variant", "value", "unit", "ci95", "per_class", "bootstrap", "details"})


def point_of(score: dict[str, Any]) -> Point:
    """The axes of a score in JSON."""
    return tuple((name, value) for name, value in score.items() if name not in OWN_KEYS)


def _identity(score: dict[str, Any]) -> tuple[Any, ...]:
    return score["metric"], score["variant"], *sorted(point_of(score))


def group_of(header: dict[str, Any]) -> str:
    """The digest of what two numbers must share to stand in one table."""
    protocol, dataset = header["protocol"], header["dataset"]
    parts = [protocol[name] for name in ("name", "version", "settings")]
    return digest([*parts, dataset["name"], dataset["split"], dataset["digest"]], 8)


def identity_of(header: dict[str, Any]) -> str:
    """The id of a record: its group, the weights and how they are read, and the limit."""
    backbone = header["backbone"]
    parts = [backbone.get(name) for name in ("digest", "arch", "layer", "pos_embed")]
    return digest([group_of(header), *parts, header["dataset"]["limit"]], 8)


class Record:
    """One record on disk. Every change is written at once; scores of other processes are kept."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.id = identity_of(header)

    def json(self) -> dict[str, Any]:
        """The record as it is on disk."""
        return read(self.path)

    def points(self) -> set[Point]:
        """The points whose headline is on disk: it is written last, so nothing of them is missing."""
        headline = self.header["protocol"]["headline"]
        return {point_of(score) for score in self.json()["scores"] if headline.items() <= score.items()}

    def start(self, run: dict[str, Any]) -> None:
        """Note that a run begins, and with what."""
        with self._changing() as record:
            record.update(status="running", run={**record["run"], **run}, code=code(), environment=environment())

    def add(self, scores: Sequence[Score]) -> None:
        """Write scores; one with the same metric, variant and axes is replaced."""
        with self._changing() as record:
            kept = {_identity(score): score for score in record["scores"]}
            kept.update({_identity(score): score for score in (score.json() for score in scores)})
            record["scores"] = [kept[key] for key in sorted(kept, key=_order)]

    def finish(self, status: str, run: dict[str, Any]) -> None:
        """Close the run as complete or failed."""
        with self._changing() as record:
            record.update(status=status, run={**record["run"], **run})

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
    def _changing(self) -> Iterator[dict[str, Any]]:
        with locked(self.path.parent):
            record = read(self.path) if self.path.exists() else self._blank()
            yield record
            write_text(self.path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _order(identity: tuple[Any, ...]) -> list[tuple[str, float, str]]:
    def rank(value: Any) -> tuple[str, float, str]:
        number = float(value) if isinstance(value, int | float) else -1.0
        return ("", number, "") if not isinstance(value, str) else (value, 0.0, "")

    axes = [part for key, value in identity[2:] for part in ((key, 0.0, ""), rank(value))]
    return [*axes, (identity[0], 0.0, ""), (identity[1], 0.0, "")]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it when the process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def open_or_create(results: Path, header: dict[str, Any], *, rerun: bool = False) -> Record:
    """The record of what `header` says (backbone, protocol, dataset), new or continued; `rerun` empties it first."""
    record = Record(results / "records" / f"{identity_of(header)}.json", header)
    if rerun:
        record.path.unlink(missing_ok=True)
    with record._changing() as content:
        content["backbone"].update(header["backbone"])  # a name may be given later
    return record


def check_writable(results: Path) -> None:
    """Raise UserError where records cannot be written, before any work is done."""
    probe = results / "records" / ".writable"
    write_text(probe, "")
    probe.unlink()


def read(path: Path) -> dict[str, Any]:
    """Read and check a record. Raises UserError naming the file where it is broken or of a newer schema."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the record {path} cannot be read ({error}); remove it and score again") from error
    if not isinstance(record, dict) or any(name not in record for name in REQUIRED):
        raise UserError(f"the record {path} lacks {', '.join(n for n in REQUIRED if n not in record)}; remove it and score again")
    if record["schema"] > SCHEMA:
        raise UserError(f"the record {path} has schema {record['schema']}, this version reads {SCHEMA}; upgrade densebench")
    return record


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
    return {"densebench": version, "commit": commit, "dirty": bool(git("status", "--porcelain")) if commit else None}


@functools.cache
def environment() -> dict[str, str]:
    """Versions of what the numbers pass through, and the machine."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "system": f"{platform.system()} {platform.machine()}"}
