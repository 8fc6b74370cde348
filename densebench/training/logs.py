"""The log of a run: `log.csv`, TensorBoard's event files and the line on the screen."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from densebench.console import clock
from densebench.files.logs import Board, CsvLog

NAME = "log.csv"
LINE_SECONDS = 10.0


class Log:
    """`log.csv`, with one row per logged step. Rows after the step from which a run resumes are dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.csv = CsvLog(folder / NAME, "choose another folder; --resume takes the last state")
        self.csv.drop_from(step + 1)
        self.board = Board(folder / "tensorboard", step + 1, NAME)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Write one row; a figure without a column gets a new one. Raises UserError where the disk is full."""
        self.csv.add({"step": str(step), **{name: f"{value:.6g}" for name, value in figures.items()}})
        self.board.add(step, figures)


class Ticker:
    """The progress line: step, losses, images per second, time left. Updated in place on a terminal, else every ten seconds."""

    def __init__(self, step: int, steps: int, images: int) -> None:
        self.first, self.steps, self.images = step, steps, images
        self.started = self.printed = time.monotonic()

    def rate(self, step: int) -> float:
        """Return images per second since the start."""
        return (step - self.first) * self.images / max(time.monotonic() - self.started, 1e-9)

    def show(self, step: int, epoch: int, terms: Mapping[str, float]) -> None:
        """Print the line, unless the last one is too recent; the last step is always printed."""
        now, live = time.monotonic(), sys.stderr.isatty()
        if now - self.printed < (0.2 if live else LINE_SECONDS) and step < self.steps:
            return
        self.printed = now
        rate = self.rate(step)
        left = (self.steps - step) * self.images / rate if rate else 0.0
        losses = ", ".join(f"{name} {value:.3f}" for name, value in terms.items())
        line = f"step {step}/{self.steps}, epoch {epoch}: {losses}, {rate:.1f} images/s, {clock(left)} left"
        print(f"\r\x1b[K{line}" if live else line, end="" if live and step < self.steps else "\n", file=sys.stderr, flush=True)
