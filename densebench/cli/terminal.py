"""The terminal: characters that it cannot show, Ctrl-C at any moment, and output that cannot be written."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import signal
import sys
import threading
from typing import Any

PLAIN = {"±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"'}
FULL = (errno.ENOSPC, errno.EIO, errno.EAGAIN, errno.EFBIG, errno.EDQUOT, errno.EPIPE, errno.EBADF)


def plain_characters() -> None:
    """Print ASCII in place of what stdout and stderr cannot show: "+-" for "±", "?" for what has no substitute.

    A terminal with the C locale counts as ASCII, although Python writes UTF-8 there. In a file or a pipe nothing is lost: under
    the C locale such output has "+-" too, but names keep their letters.
    """
    codecs.register_error("densebench.shown", _shown)
    codecs.register_error("densebench.kept", _kept)
    locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "")
    for stream in (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):
            continue
        unicode = codecs.lookup(stream.encoding).name == "utf-8"
        bare = locale in ("C", "POSIX") or (not locale and stream.isatty())
        if unicode and bare and "PYTHONIOENCODING" not in os.environ and os.environ.get("PYTHONUTF8") != "1":
            stream.reconfigure(encoding="ascii", errors="densebench.shown" if stream.isatty() else "densebench.kept")
        else:
            stream.reconfigure(errors="densebench.kept" if unicode else "densebench.shown")


def _shown(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII in place of the characters that cannot be encoded."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def _kept(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return the same, but UTF-8 for what has no substitute; bytes of a file's name that are not text stay as they are."""
    assert isinstance(error, UnicodeEncodeError)
    letter = error.object[error.start]
    errors = "surrogateescape" if "\udc80" <= letter <= "\udcff" else "replace"
    return PLAIN.get(letter) or letter.encode("utf-8", errors), error.start + 1


class Interrupts:
    """Ctrl-C: the first one is a KeyboardInterrupt, the second one ends the process at once and silently.

    Whatever is written goes to a temporary name and is then renamed, so ending at any moment loses no more than a kill would.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._process = os.getpid()

    def watch(self) -> None:
        """Handle Ctrl-C for as long as the process lives."""
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._interrupt)
            sys.unraisablehook = self._unless_stopped(sys.unraisablehook)
            threading.excepthook = self._unless_stopped(threading.excepthook)

    def leave(self) -> None:
        """Make every further Ctrl-C end the process: there is nothing left to stop."""
        self.stopped = True

    def _interrupt(self, _number: int, _frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a forked process: the main one ends it
        if self.stopped:
            os._exit(130)
        self.stopped = True
        raise KeyboardInterrupt

    def _unless_stopped(self, hook: Any) -> Any:
        return lambda problem: None if self.stopped else hook(problem)


def say(text: str) -> None:
    """Print a line on stderr, which may be closed or full."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError, ValueError):
            print(f"densebench: {text}", file=sys.stderr, flush=True)


def output_failed(error: BaseException) -> bool:
    """Return whether an error comes from a stream that can no longer be written: it names no file."""
    return isinstance(error, OSError) and error.filename is None and error.errno in FULL


def discard_output() -> None:
    """Send what the interpreter flushes at its end nowhere: the user already knows that it could not be written."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nothing, stream.fileno())  # type: ignore[union-attr]
