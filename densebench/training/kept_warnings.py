"""The warnings of a run, kept in its folder: what was skipped, lost or has collapsed, line by line."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from densebench.console import LOGGER, one_line

NAME = "warnings.txt"
MOST = 1000  # lines that one process adds


class KeptWarnings(logging.NullHandler):
    """While open, adds every warning that densebench prints to `warnings.txt`; where that cannot be written, it is left out.

    It is a NullHandler, since it takes no message away from the screen.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.WARNING)
        self.path, self._count = folder / NAME, 0

    def __enter__(self) -> KeptWarnings:
        LOGGER.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        LOGGER.removeHandler(self)

    def handle(self, record: logging.LogRecord) -> bool:
        """Add one line."""
        self._count += 1
        if self._count <= MOST:
            with suppress(OSError), self.path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(one_line(record.getMessage()) + "\n")
        return True


def read_warnings(folder: Path, most: int = 50) -> list[str]:
    """Return the newest warnings of a run, each once; none where there are none."""
    with suppress(OSError):
        with (folder / NAME).open("rb") as stream:
            stream.seek(max(0, (folder / NAME).stat().st_size - 400_000))
            lines = stream.read().decode("utf-8", "replace").splitlines()
        return list(dict.fromkeys(line for line in lines if line))[-most:]
    return []
