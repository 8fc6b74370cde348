"""Output: characters that a terminal cannot show, lines on stderr, and streams that cannot be written."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys

PLAIN = {"±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"'}
FULL = (errno.ENOSPC, errno.EIO, errno.EAGAIN, errno.EFBIG, errno.EDQUOT, errno.EPIPE, errno.EBADF)


def plain_characters() -> None:
    """Make stdout and stderr print ASCII for what they cannot show: "+-" for "±", "?" for what has no substitute.

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
    """Return ASCII where a character has a substitute, else UTF-8; bytes of a file name that are not text stay as they are."""
    assert isinstance(error, UnicodeEncodeError)
    letter = error.object[error.start]
    errors = "surrogateescape" if "\udc80" <= letter <= "\udcff" else "replace"
    return PLAIN.get(letter) or letter.encode("utf-8", errors), error.start + 1


def say(text: str) -> None:
    """Print a line on stderr, which may be closed or full."""
    with contextlib.suppress(OSError, ValueError):
        print(f"densebench: {text}", file=sys.stderr, flush=True)


def output_failed(error: BaseException) -> bool:
    """Return whether an error comes from a stream that can no longer be written: it names no file."""
    return isinstance(error, OSError) and error.filename is None and error.errno in FULL


def discard_output() -> None:
    """Send to nowhere what the interpreter flushes at its end; the user already knows that it could not be written."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nothing, stream.fileno())  # type: ignore[union-attr]
