"""The log of a run: `log.csv`, TensorBoard's event files and the line on the screen."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from densebench.console import Line, clock
from densebench.files.logs import Board, CsvLog

NAME = "log.csv"


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
