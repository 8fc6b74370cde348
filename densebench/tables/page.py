"""The page of a table's work, `RESULTS/tables/TABLE/index.html`: the state of every cell, what came out, and why others failed.

It is made from files alone. `densebench run` writes it whenever a state changes, `densebench run --status` whenever it looks; as
long as a cell runs, the page reloads itself. Several processes may write it: it is whole at any moment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from densebench.files.atomic import write_text
from densebench.pages.page import render
from densebench.pages.renewal import Renewal
from densebench.tables.states import State, TableFolder
from densebench.tables.status_page import StatusPage

NAME = "index.html"
EVERY = 3.0  # seconds from one page to the next, at least
LONGEST = 15.0  # seconds until a page is written anew although no state has changed, since points are scored meanwhile
SHARE = 50  # the page takes at most one part in so many of the time of the process that writes it


def write_page(title: str, states: Sequence[State], folder: TableFolder) -> Path:
    """Write the page of a table's states, and return its path. Raises UserError where it cannot be written."""
    path = folder.path / NAME
    page = StatusPage(title, states, folder, time.time())
    refresh = round(EVERY) if any(state.word == "running" for state in states) else 0
    write_text(path, render("page.html", room="densebench.tables", refresh=refresh, **page.values()))
    return path


class LivePage:
    """Writes the page again as the states change. A page that cannot be written stops no work: one warning says so."""

    def __init__(self, title: str, folder: TableFolder) -> None:
        self.title, self.folder = title, folder
        self.path = folder.path / NAME
        self._shown: list[str] = []
        self._last = -LONGEST
        self._page = Renewal(self.path, EVERY, SHARE, "the work goes on")

    def show(self, states: Sequence[State]) -> None:
        """Write the page where a state has changed, or a while has passed; not again within seconds."""
        now, words = time.monotonic(), [state.word for state in states]
        if self._page.is_due and (words != self._shown or now - self._last >= LONGEST):
            self.write(states)

    def write(self, states: Sequence[State]) -> bool:
        """Write the page now; return whether that was possible."""
        self._page.write(lambda: write_page(self.title, states, self.folder))
        self._shown, self._last = [state.word for state in states], time.monotonic()
        return not self._page.failed
