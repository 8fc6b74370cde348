"""Writing a page again and again beside work that matters more than the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from densebench.console import one_line, warn


class Renewal:
    """Writes one page, seldom enough. A page that cannot be written ends no work: one warning says so."""

    def __init__(self, path: Path, every: float, share: int, ending: str) -> None:
        """every: seconds from one page to the next, at least. share: the page takes one part in so many of the time at most.

        ending: how the warning ends, such as "the run goes on".
        """
        self.path, self.every, self.share, self.ending = path, every, share, ending
        self.failed = False
        self._due = -float("inf")

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the page before."""
        return time.monotonic() >= self._due

    def write(self, work: Callable[[], object]) -> None:
        """Write the page now, by doing some work."""
        began = time.monotonic()
        try:
            work()
        except Exception as error:  # whatever it is, what goes on beside it is worth more
            if not self.failed:
                warn(f"{self.path} cannot be written ({one_line(str(error)) or type(error).__name__}); {self.ending}")
            self.failed = True
        ended = time.monotonic()
        self._due = ended + max(self.every, self.share * (ended - began))
