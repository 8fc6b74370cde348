"""The user's own code: whatever goes wrong in it gives one line that names the file, the line and the error."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densebench.errors import Stopped, UserError

FILES: set[str] = set()
"""Files of the user's own that were imported."""


@contextmanager
def guarded(where: Path | str | None = None, what: str = "") -> Iterator[None]:
    """Turn what the user's code raises in the block, or its sys.exit, into a UserError.

    where: the file, or the spec, that is to blame for whatever happens; without it, only for what one of FILES has a part in, and
    the rest passes. what: what fails, such as "load()". UserErrors, a lack of memory and Ctrl-C pass as they are.
    """
    try:
        yield
    except (UserError, Stopped, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        frame = _own_frame(error)
        if type(error).__name__ == "OutOfMemoryError" or (where is None and frame is None):  # torch's; this module imports none
            raise
        file, line = frame or (str(where), None)
        message = " ".join(str(error).split()) or "no message"
        problem = f"calls sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {message}"
        raise UserError(f"{file}{f', line {line},' if line else ''} fails{f' {what}' if what else ''}: {problem}") from error


def _own_frame(error: BaseException) -> tuple[str, int | None] | None:
    """Return the last line of a user's file that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    return next(((frame.filename, frame.lineno) for frame in reversed(frames) if frame.filename in FILES), None)
