"""The state of each cell of a table, from files alone; nothing is unpickled, and torch is not imported.

RESULTS/tables/TABLE/cells/ID.json  what a process noted of the cell: its state, host, record, how far it is, why it failed
RESULTS/tables/TABLE/cells/ID.lock  held by the process that carries the cell out; the system frees it when that process dies
RESULTS/tables/TABLE/figure-N.png   the sheet of figure N
RESULTS/tables/TABLE/jobs/          submitit's files, with the logs

A note alone makes no cell done: the record of an evaluation must be there, complete, with all points that were noted, and the
files of the backbone as they were; the run folder of a pretraining must be finished; the sheet of a figure must be there, drawn
from all that is done of what it shows, as that is now.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from densebench.errors import UserError
from densebench.files.atomic import write_text
from densebench.files.locks import is_locked, lock_exclusively
from densebench.files.stored_json import Count, Flag, ShapeError, Text, Word, check, load
from densebench.results import record as records
from densebench.results.score import point_of
from densebench.tables.cells import Cell

STATES = ("done", "running", "failed", "interrupted", "blocked", "waiting")
BACKBONE = "backbone.safetensors"
ATTEMPTS = 20  # a look at the lock takes it for a moment


@with_config(ConfigDict(extra="allow", strict=True))
class Note(TypedDict):
    """What a process noted of a cell.

    files: size and time of change of each file that the backbone is read from. drawn_from: of a figure, when each cell that it
    shows was done; not_drawn: why backbones are not on it.
    """

    id: Word
    state: Literal["running", "done", "failed", "interrupted"]
    started: Text
    host: NotRequired[Text]
    pid: NotRequired[Count]
    job: NotRequired[Text]
    log: NotRequired[Text]
    problem: NotRequired[Text]
    users: NotRequired[Flag]
    died: NotRequired[Count]
    scored: NotRequired[Count]
    total: NotRequired[Count]
    record: NotRequired[Text]
    points: NotRequired[list[dict[Text, Any]]]
    outputs: NotRequired[list[Text]]
    files: NotRequired[dict[Text, list[Count]]]
    drawn_from: NotRequired[dict[Text, Text]]
    not_drawn: NotRequired[dict[Text, Text]]
    seconds: NotRequired[float]


SHAPE = TypeAdapter(Note)


@dataclass(frozen=True)
class TableFolder:
    """The folder in which the processes that work on a table note what they do. results: the folder of the records."""

    results: Path
    table: str

    @property
    def path(self) -> Path:
        """RESULTS/tables/TABLE."""
        return self.results / "tables" / self.table

    @property
    def jobs(self) -> Path:
        """The folder of submitit's files."""
        return self.path / "jobs"

    def figure_path(self, number: str) -> Path:
        """Return the file of a figure's sheet."""
        return self.path / f"figure-{number}.png"

    def note_path(self, cell: Cell) -> Path:
        """Return the file of a cell's note."""
        return self.path / "cells" / f"{cell.id}.json"

    def lock_path(self, cell: Cell) -> Path:
        """Return the file that is locked by the process that carries a cell out."""
        return self.path / "cells" / f"{cell.id}.lock"

    def note(self, cell: Cell, note: Mapping[str, Any]) -> None:
        """Write a note. Raises UserError where the folder cannot be written."""
        write_text(self.note_path(cell), json.dumps({"id": cell.id, "label": cell.label, **note}, indent=1) + "\n")

    def noted(self, cell: Cell) -> dict[str, Any]:
        """Return the note of a cell; {} where there is none, or none that can be read."""
        return self.noted_of(cell.id)

    def noted_of(self, identity: str) -> dict[str, Any]:
        """Return the note of the cell that has an id."""
        path = self.path / "cells" / f"{identity}.json"
        with suppress(OSError):
            about = path.stat()
            return _note(path, about.st_mtime_ns, about.st_size, about.st_ino)
        return {}

    def forget(self, cell: Cell) -> None:
        """Remove the note of a cell: it waits again."""
        self.note_path(cell).unlink(missing_ok=True)

    def is_held(self, cell: Cell) -> bool:
        """Return whether a process is carrying a cell out."""
        return is_locked(self.lock_path(cell))

    @contextmanager
    def holding(self, cell: Cell) -> Iterator[bool]:
        """Hold the lock of a cell during the block; yield False where another process holds it."""
        path = self.lock_path(cell)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise UserError(f"cannot write in {path.parent}: {error.strerror}; choose another folder") from error
        for _ in range(ATTEMPTS):
            with lock_exclusively(path) as is_mine:
                if is_mine:
                    yield True
                    return
            time.sleep(0.02)
        yield False


@dataclass(frozen=True)
class State:
    """The state of one cell: a word of STATES, and what there is to say about it."""

    cell: Cell
    word: str
    note: Mapping[str, Any]
    blocked_by: str = ""

    @property
    def died(self) -> int:
        """How many processes died while they were at the cell: killed, or out of memory."""
        return int(self.note.get("died", 0)) + (self.word != "running" and self.note.get("state") == "running")

    @property
    def about(self) -> str:
        """Where it runs and how far it is, why it failed, what blocks it, what a figure lacks; "" for the rest."""
        note = self.note
        if self.word == "running":
            points = f"{note.get('scored', 0)} of {note['total']} points, " if note.get("total") else ""
            return f"{points}since {note.get('started', '?')} on {note.get('host', '?')}"
        if self.word == "failed":
            return str(note.get("problem", ""))
        if self.word == "blocked":
            return f"needs {self.blocked_by}"
        if self.word == "done" and note.get("not_drawn"):
            return f"without {', '.join(note['not_drawn'])}"
        if self.word == "interrupted" and self.died:
            return f"its process died {'once' if self.died == 1 else f'{self.died} times'} (killed, or out of memory)"
        return ""

    def json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        cell, note = self.cell, self.note
        about = {
            name: note[name] for name in ("host", "pid", "job", "started", "ended", "record", "outputs", "log") if name in note
        }
        about |= {"died": self.died} if note else {}
        progress = {name: note[name] for name in ("scored", "total") if name in note}
        why = {"problem": note.get("problem", "")} if self.word == "failed" else {}
        blocked = {"blocked_by": self.blocked_by} if self.word == "blocked" else {}
        named = {"id": cell.id, "kind": cell.kind, "label": cell.label, "state": self.word, "needs": list(cell.needs)}
        return {**named, **why, **blocked, **about, **progress, "command": list(cell.command)}


def states(cells: Sequence[Cell], folder: TableFolder, settled: Collection[str] | None = None) -> list[State]:
    """Return the state of each cell, in the order of the cells.

    settled: ids of the cells that this run has tried; others that failed or were interrupted count as waiting. None: all.
    """
    found: dict[str, State] = {}
    labels = {cell.id: cell.label for cell in cells}
    for cell in sorted(cells, key=_depth({cell.id: cell for cell in cells})):
        note = folder.noted(cell)
        word, blocked_by = _word(cell, note, folder), ""
        if word in ("failed", "interrupted") and settled is not None and cell.id not in settled:
            word = "waiting"
        if word == "waiting":
            stuck = _stuck(cell, {identity for identity, state in found.items() if state.word not in ("failed", "blocked")})
            word, blocked_by = ("blocked", ", ".join(labels.get(need, need) for need in stuck)) if stuck else (word, "")
        found[cell.id] = State(cell, word, note, blocked_by)
    return [found[cell.id] for cell in cells]


def _stuck(cell: Cell, going: Collection[str]) -> list[str]:
    """Return the ids of the cells that keep one from ever starting. going: the ids of those that are done or may still be."""
    without = [need for need in cell.needs if need not in going]
    wanted = [want for want in cell.wants if want not in going]
    return without + (wanted if cell.needs_a_wanted_one and len(wanted) == len(cell.wants) else [])


def _word(cell: Cell, note: Mapping[str, Any], folder: TableFolder) -> str:
    if folder.is_held(cell):
        return "running"
    if is_done(cell, note, folder):
        return "done"
    noted = note.get("state")
    return {"failed": "failed", "running": "interrupted", "interrupted": "interrupted"}.get(str(noted), "waiting")


def _depth(by_id: Mapping[str, Cell]) -> Any:
    """Return a function that gives how many cells must be done one after another before a cell; 0 in a circle."""

    @functools.cache
    def depth(identity: str) -> int:
        cell = by_id[identity]
        needs = [need for need in (*cell.needs, *cell.wants) if need in by_id]
        return 1 + max(map(depth, needs)) if needs else 0

    return lambda cell: depth(cell.id)


def is_done(cell: Cell, note: Mapping[str, Any], folder: TableFolder) -> bool:
    """Return whether what a cell makes is there: a finished run folder, a complete record with its points, or its files."""
    if note.get("state") != "done" or note.get("files", {}) != backbone_files(cell):
        return False
    if cell.kind == "pretrain":
        return is_finished(Path(cell.request["output"]))
    if cell.kind == "evaluation":
        wanted = {frozenset(point.items()) for point in note.get("points", [])}
        return bool(wanted) and wanted <= recorded_points(folder.results, str(note.get("record")))
    if cell.kind == "figure" and note.get("drawn_from") != done_of_wanted(cell, folder):
        return False
    return bool(note.get("outputs")) and all(Path(path).is_file() for path in note["outputs"])


def done_of_wanted(cell: Cell, folder: TableFolder) -> dict[str, str]:
    """Return when each of the cells that a figure wants was done, by their ids; only of those that are."""
    notes = {want: folder.noted_of(want) for want in cell.wants}
    return {want: str(note.get("ended", "")) for want, note in notes.items() if note.get("state") == "done"}


def is_finished(run: Path) -> bool:
    """Return whether a run folder holds the backbone of the last step."""
    try:
        facts = load(run / "checkpoint.json")
    except ShapeError:
        return False
    return isinstance(facts, dict) and facts.get("finished") is True and (run / BACKBONE).is_file()


def backbone_files(cell: Cell) -> dict[str, list[int]]:
    """Return size and time of change of each file that a cell's backbones are read from, or written to, by its path."""
    paths = [Path(each["weights"]) for each in (cell.request, *cell.parts) if each.get("weights")]
    kind, _, place = str(cell.request.get("model", "")).partition(":")
    folder = cell.request["output"] if cell.kind == "pretrain" else place if kind == "ckpt" else None
    paths += [Path(folder) / BACKBONE] if folder else []
    found = {}
    for path in paths:
        with suppress(OSError):
            about = path.stat()
            found[str(path)] = [about.st_size, about.st_mtime_ns]
    return found


def recorded_points(results: Path, identity: str) -> frozenset[frozenset[Any]]:
    """Return the points of a complete record; none where there is no such record, or it is broken or not complete."""
    path = results / "records" / f"{identity}.json"
    with suppress(OSError):
        about = path.stat()
        return _points(path, about.st_mtime_ns, about.st_size, about.st_ino)
    return frozenset()


@functools.lru_cache(maxsize=4096)  # a table is looked at every second
def _points(path: Path, _changed: int, _size: int, _inode: int) -> frozenset[frozenset[Any]]:
    try:
        record = records.read(path)
    except UserError:
        return frozenset()
    headline = record["protocol"]["headline"].items()
    shown = (score for score in record["scores"] if headline <= score.items())
    return frozenset(frozenset(point_of(score)) for score in shown) if record["status"] == "complete" else frozenset()


@functools.lru_cache(maxsize=4096)
def _note(path: Path, _changed: int, _size: int, _inode: int) -> dict[str, Any]:
    try:
        note: dict[str, Any] = load(path)
        check(note, SHAPE)
    except ShapeError:
        return {}
    return note
