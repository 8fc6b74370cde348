"""The log of a run: `log.csv`, TensorBoard's event files and the line on the screen."""

from __future__ import annotations

import csv
import io
import itertools
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from densebench.console import Line, clock, warn
from densebench.files.atomic import appending, write_text

NAME = "log.csv"


class Log:
    """`log.csv`, with one row per logged step. Rows after the step from which a run resumes are dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / NAME
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = [row for row in read_log(self.path) if int(row["step"]) <= step]
        self._rewrite()
        self.board = Board(folder / "tensorboard", step + 1)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Write one row; a figure without a column gets a new one. Raises UserError where the disk is full."""
        row = {"step": str(step), **{name: f"{value:.6g}" for name, value in figures.items()}}
        new = [name for name in row if name not in self.columns]
        self.rows.append(row)
        if new:
            self._rewrite()
        else:
            self._append(row)
        self.board.add(step, figures)

    def _append(self, row: dict[str, str]) -> None:
        with (
            appending(self.path, "choose another folder; --resume takes the last state"),
            self.path.open("a", newline="", encoding="utf-8") as stream,
        ):
            csv.DictWriter(stream, self.columns, restval="", lineterminator="\n").writerow(row)

    def _rewrite(self) -> None:
        self.columns = list(dict.fromkeys(["step", *(name for row in self.rows for name in row)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


class Board:
    """One of TensorBoard's event files. Where it cannot be written (a full disk, say), a warning says so, and training continues.

    Events are written at once and in this thread, since the thread of TensorBoard's own writer would die when the disk is full.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """step: the first one that will be written; TensorBoard ignores what earlier files hold for this and later steps."""
        # TensorBoard orders files by these names
        stem = f"events.out.tfevents.{int(time.time()):010}.{platform.node()}.{os.getpid()}"
        names = (folder / f"{stem}.{number}" for number in itertools.count())
        self.path: Path | None = next(path for path in names if not path.exists())
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a step."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Any) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as stream:
                RecordWriter(stream).write(event.SerializeToString())
        except OSError as error:
            warn(f"cannot write {self.path}: {error.strerror}; TensorBoard's curves end here, {NAME} has all values")
            self.path = None


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log, without their empty cells; a row that was not written to its end is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = [row for row in csv.DictReader(io.StringIO(whole)) if None not in row and None not in row.values()]
    return [{name: value for name, value in row.items() if value != ""} for row in rows]


class Ticker:
    """The line about a run: step, losses, images per second, time left. A bar on a terminal, else a line every ten seconds."""

    def __init__(self, step: int, steps: int, images: int) -> None:
        self.first, self.steps, self.images = step, steps, images
        self.started = time.monotonic()
        self.text = ""
        self.line = Line(steps, step, f"step {step}/{steps}")

    def rate(self, step: int) -> float:
        """Return images per second since the start."""
        return (step - self.first) * self.images / max(time.monotonic() - self.started, 1e-9)

    def show(self, step: int, epoch: int, terms: Mapping[str, float]) -> None:
        """Show the line, unless it was shown a moment ago; the last step is always printed."""
        rate = self.rate(step)
        left = (self.steps - step) * self.images / rate if rate else 0.0
        losses = ", ".join(f"{name} {value:.3f}" for name, value in terms.items())
        self.text = f"step {step}/{self.steps}, epoch {epoch}: {losses}, {rate:.1f} images/s, {clock(left)} left"
        self.line.show(step, self.text)
        if step >= self.steps:
            self.close()

    def close(self) -> None:
        """Take the bar away and print the newest line."""
        self.line.close(self.text)
        self.text = ""
