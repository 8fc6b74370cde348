"""What the user sees during a run: notices and progress, always on stderr, so that stdout stays data."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def one_line(text: str) -> str:
    """Return the text with a space for line breaks and control characters, which would break tables or control the terminal."""
    return CONTROLS.sub(" ", text)


def notice(text: str) -> None:
    """Print one line on stderr; of several processes only the main process does."""
    if os.environ.get("RANK", "0") == "0":
        print(one_line(text), file=sys.stderr, flush=True)


class Progress:
    """Counts steps of a known total: a live bar on a terminal, else a plain line every ten seconds and at the end."""

    def __init__(self, label: str, total: int, unit: str = "images") -> None:
        self.label, self.total, self.unit = one_line(label), total, unit
        self.done = 0
        self.started = self.printed = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as done."""
        self.done += steps
        now = time.monotonic()
        live = sys.stderr.isatty()
        if os.environ.get("RANK", "0") != "0":
            return
        if now - self.printed >= (0.2 if live else 10.0) or (live and self.done == self.total):
            self.printed = now
            print(f"\r\x1b[K{self.line(now)}" if live else self.line(now), end="" if live else "\n", file=sys.stderr)
            sys.stderr.flush()

    def line(self, now: float) -> str:
        """Return the state in words: how many, how fast, how much longer."""
        rate = self.done / max(now - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        return f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s, {clock(left)} left"


@contextmanager
def progress(label: str, total: int, unit: str = "images") -> Iterator[Progress]:
    """Show how far a loop of `total` steps is; the block calls `advance`. Prints a closing line with the time taken."""
    bar = Progress(label, total, unit)
    try:
        yield bar
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
        if bar.done:
            notice(f"{label}: {bar.done}/{total} {unit} in {clock(time.monotonic() - bar.started)}")


def clock(seconds: float) -> str:
    """Return a span of time as minutes:seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
