"""Logs of figures by step: a CSV file, and TensorBoard's event files."""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densebench.console import warn
from densebench.files.atomic import appending, write_text


class CsvLog:
    """A CSV file with a column `step` and one row a call of `add`."""

    def __init__(self, path: Path, remedy: str) -> None:
        """Read the rows that are there; nothing is written yet. remedy: what to do where the disk is full."""
        self.path, self._remedy = path, remedy
        self.rows = read_log(path)
        self._columns: list[str] = []

    def drop_from(self, step: int) -> None:
        """Drop the rows of this step and of later ones, and write the file."""
        self.rows = [row for row in self.rows if int(row["step"]) < step]
        self._rewrite()

    def add(self, row: Mapping[str, str]) -> None:
        """Write one row; a name without a column gets a new one. Raises UserError where the disk is full."""
        self.rows.append(dict(row))
        if any(name not in self._columns for name in row):
            self._rewrite()
            return
        with appending(self.path, self._remedy), self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self._columns, restval="", lineterminator="\n").writerow(row)

    def _rewrite(self) -> None:
        self._columns = list(dict.fromkeys(["step", *(name for row in self.rows for name in row)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log, without their empty cells; a row that was not written to its end is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = [row for row in csv.DictReader(io.StringIO(whole)) if None not in row and None not in row.values()]
    return [{name: value for name, value in row.items() if value != ""} for row in rows]


class Board:
    """One of TensorBoard's event files. Where it cannot be written (a full disk, say), a notice says so, and training continues.

    Events are written at once and in this thread, since the thread of TensorBoard's own writer would die when the disk is full.
    """

    def __init__(self, folder: Path, step: int, log: str) -> None:
        """Begin a file; without the package tensorboard, a notice says so.

        step: the first one that will be written; TensorBoard ignores what earlier files hold for this and later steps.
        log: the name of the file that has the same figures.
        """
        self._log = log
        self.path: Path | None = None
        try:
            self._events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
            self._summaries: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
            self._writer: Any = importlib.import_module("tensorboard.summary.writer.record_writer").RecordWriter
        except ModuleNotFoundError:
            remedy = "pip install 'densebench[tensorboard]'"
            warn(f"the package tensorboard is missing: {log} has all values, but no curves are written; {remedy}")
            return
        # TensorBoard orders files by these names
        stem = f"events.out.tfevents.{int(time.time()):010}.{platform.node()}.{os.getpid()}"
        names = (folder / f"{stem}.{number}" for number in itertools.count())
        self.path = next(path for path in names if not path.exists())
        session = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(self._events.Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(self._events.Event(wall_time=time.time(), step=step, session_log=session))

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a step."""
        if self.path is not None:
            values = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
            summary = self._summaries.Summary(value=values)
            self._write(self._events.Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as stream:
                self._writer(stream).write(event.SerializeToString())
        except OSError as error:
            warn(f"cannot write {self.path}: {error.strerror}; TensorBoard's curves end here, {self._log} has all values")
            self.path = None
