"""What the user sees during a run: messages and progress, always on stderr, so that stdout stays data.

Messages are records of Python's logger `densebench`: `notice` is of the level INFO, `warn` of the level WARNING. Where nobody has
configured logging they are bare lines on stderr. Whoever adds handlers or calls `logging.basicConfig` has them there instead.
`--quiet`, DENSEBENCH_QUIET=1 and `logging.getLogger("densebench").setLevel("WARNING")` leave warnings only, and no
progress.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
LOGGER = logging.getLogger("densebench")
LINE_SECONDS = 10.0  # between two plain lines


def one_line(text: str) -> str:
    """Return the text with a space for line breaks and control characters, which would break tables or control the terminal."""
    return CONTROLS.sub(" ", text)


def notice(text: str) -> None:
    """Print in one line what is being done; of several processes only the main process prints."""
    _log(logging.INFO, text)


def warn(text: str) -> None:
    """Print in one line what is wrong, left out or lost; of several processes only the main process prints."""
    _log(logging.WARNING, text)


@contextmanager
def silenced(is_quiet: bool = True) -> Iterator[None]:
    """During the block show warnings only, and no progress; change nothing where `is_quiet` is false."""
    before = LOGGER.level
    if is_quiet:
        LOGGER.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        LOGGER.setLevel(before)


@contextmanager
def each_once() -> Iterator[None]:
    """During the block show each message once, however often it is given, as where many models are fitted alike."""
    shown: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in shown
        shown.add(text)
        return new

    LOGGER.addFilter(is_new)
    try:
        yield
    finally:
        LOGGER.removeFilter(is_new)


class Line:
    """One line about a loop, shown anew as the loop advances.

    It is a bar on a terminal and in a notebook; elsewhere (a pipe, a file) it is printed every ten seconds.
    """

    def __init__(self, total: int, done: int = 0, text: str = "") -> None:
        """total: the number of steps of the loop, 0 if unknown. done: those done already. text: the first text of a bar."""
        self._printed = time.monotonic()
        self._lock = threading.Lock()
        self._told = ""
        self._bar = _new_bar(total, done, one_line(text))

    def show(self, done: int, text: str) -> None:
        """Show how many steps are done, and what `text` says about them, unless the line was shown a moment ago."""
        with self._lock:
            if self._bar is not None:
                self._bar.set_description_str(one_line(text), refresh=False)
                self._bar.update(done - self._bar.n)
            elif time.monotonic() - self._printed >= LINE_SECONDS:
                self._printed, self._told = time.monotonic(), text
                notice(text)

    def close(self, text: str = "") -> None:
        """Take the bar away and print `text` in its place, unless it was the last line that was printed."""
        with self._lock:
            if self._bar is not None:
                self._bar.clear()  # a message may have shown it before its time: then close would leave it
                self._bar.close()
                _bars.discard(self._bar)
                self._bar = None
        if text and text != self._told:
            notice(text)


class Progress:
    """Counts the steps of a loop. `total`: how many there are, 0 if unknown."""

    def __init__(self, label: str, total: int, unit: str = "images") -> None:
        self.label, self.total, self.unit = one_line(label), total, unit
        self.done = 0
        self.started = time.monotonic()
        self._line = Line(total, text=self.label)
        self._lock = threading.Lock()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as done. May be called from several threads."""
        with self._lock:
            self.done += steps
            self._line.show(self.done, self._state())

    def close(self) -> None:
        """Print how many steps were done and the time taken; nothing where none was done."""
        spent = clock(time.monotonic() - self.started)
        self._line.close(f"{self.label}: {self._count()} {self.unit} in {spent}" if self.done else "")

    def _state(self) -> str:
        """Return the state in words: how many, how fast, how much longer."""
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        left = f", {clock((self.total - self.done) / rate)} left" if rate and self.total else ""
        return f"{self.label}: {self._count()} {self.unit}, {rate:.1f}/s{left}"

    def _count(self) -> str:
        return f"{self.done}/{self.total}" if self.total else f"{self.done}"


@contextmanager
def progress(label: str, total: int, unit: str = "images") -> Iterator[Progress]:
    """Show how far a loop of `total` steps is; the block calls `advance`. Prints a closing line with the time taken."""
    bar = Progress(label, total, unit)
    try:
        yield bar
    finally:
        bar.close()


def clock(seconds: float) -> str:
    """Return a span of time as minutes:seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Stderr(logging.Handler):
    """Prints messages as bare lines on whatever is stderr now, unless the user's own handlers take them."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None and not _is_configured():
            print(one_line(record.getMessage()), file=sys.stderr, flush=True)


_stderr = _Stderr()
_bars: weakref.WeakSet[Any] = weakref.WeakSet()
"""The bars on the terminal, above which messages are printed."""


def _log(level: int, text: str) -> None:
    """Give a message to the logger. Without a level of its own, the root's counts if that has handlers, else INFO."""
    threshold = _own_level() or (logging.root.level if _root_takes() else logging.INFO)
    if level < threshold or level <= LOGGER.manager.disable or not _is_main():
        return
    LOGGER.addHandler(_stderr)  # nothing happens where it is there already
    file, number, function, _ = LOGGER.findCaller(stacklevel=3)
    line = one_line(text).encode("utf-8", "backslashreplace").decode()  # names of files may be no text that a log can hold
    with _above_bars():
        LOGGER.handle(LOGGER.makeRecord(LOGGER.name, level, file, number, line, (), None, function))


def _own_level() -> int:
    """Return the level that was set for densebench's own logger or by DENSEBENCH_QUIET; 0 if none was."""
    return LOGGER.level or (logging.WARNING if os.environ.get("DENSEBENCH_QUIET", "0") not in ("", "0") else 0)


def _is_configured() -> bool:
    """Return whether the user's own handlers take the messages."""
    return _root_takes() or any(_is_output(handler) for handler in LOGGER.handlers if handler is not _stderr)


def _root_takes() -> bool:
    """Return whether a handler of the root logger takes the messages, so that its level counts."""
    return LOGGER.propagate and any(_is_output(handler) for handler in logging.root.handlers)


def _is_output(handler: logging.Handler) -> bool:
    """Return whether a handler shows or stores messages: not one that drops them, or collects them in memory for a test."""
    if isinstance(handler, logging.FileHandler):
        return handler.baseFilename != os.path.abspath(os.devnull)  # noqa: PTH100
    return not isinstance(handler, logging.NullHandler) and not isinstance(getattr(handler, "stream", None), io.StringIO)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _new_bar(total: int, done: int, text: str) -> Any:
    """Return a new bar; None in a pipe or a file, in all processes but the main one, and where messages are silenced."""
    is_quiet = LOGGER.disabled or max(_own_level(), LOGGER.manager.disable + 1) > logging.INFO
    in_notebook = _in_notebook()
    on_terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if is_quiet or not _is_main() or not (on_terminal or in_notebook):
        return None
    bar = _bar_class(in_notebook)(
        total=total or None,
        initial=done,
        desc=text,
        file=sys.stderr,
        bar_format="|{bar}| {desc}" if in_notebook else "|{bar:20}| {desc}",
        leave=False,
        delay=0.2,  # a short loop has no bar
        mininterval=0.5 if in_notebook else 0.2,
        miniters=1,
        dynamic_ncols=True,
    )
    _bars.add(bar)
    return bar


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


@functools.cache
def _bar_class(in_notebook: bool) -> Any:
    """Return tqdm's bar: a widget in a notebook that can show widgets, else text. It starts no thread and no process."""
    from importlib.util import find_spec

    if in_notebook and find_spec("ipywidgets"):
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0

    Bar.set_lock(getattr(tqdm, "_lock", None) or threading.RLock())
    return Bar


@contextmanager
def _above_bars() -> Iterator[None]:
    """Take the bars off the terminal while the block prints, and show them again below."""
    with contextlib.ExitStack() as stack:
        for kind in {type(bar) for bar in _bars}:
            stack.enter_context(kind.external_write_mode(file=sys.stderr))
        yield
