"""The states of a table's cells, as people read them: a table on a terminal, a line for each cell that ends, a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from densebench.console import one_line
from densebench.tables.states import STATES, State

if TYPE_CHECKING:  # only a terminal needs it
    from rich.table import Table as RichTable

STYLES = {"done": "green", "running": "cyan", "failed": "red", "interrupted": "yellow", "blocked": "magenta", "waiting": "dim"}
ENDED = ("done", "failed", "interrupted")


def summary(states: Sequence[State]) -> str:
    """Return how many cells are in which state: "5 of 6 cells done, 1 failed"."""
    counts = Counter(state.word for state in states)
    others = [f"{counts[word]} {word}" for word in STATES[1:] if counts[word]]
    return ", ".join([f"{counts['done']} of {len(states)} cells done", *others])


def line(state: State) -> str:
    """Return the state of one cell as a line, with the log where it failed."""
    about = f" ({state.about})" if state.about and state.word != "failed" else f": {state.about}" if state.about else ""
    log = f" [{state.note['log']}]" if state.word in ("failed", "interrupted") and state.note.get("log") else ""
    return one_line(f"{state.word}: {state.cell.label}{about}{log}")


def as_json(title: str, states: Sequence[State]) -> dict[str, Any]:
    """Return the states of a table as JSON values."""
    counts = Counter(state.word for state in states)
    return {"title": title, "counts": {word: counts[word] for word in STATES}, "cells": [state.json() for state in states]}


def as_table(title: str, states: Sequence[State], rows: int | None = None) -> RichTable:
    """Return the states as a table of rich. rows: show at most so many cells, running and failed ones first."""
    from rich.table import Table
    from rich.text import Text

    shown = states if rows is None or len(states) <= rows else _most_telling(states, max(1, rows))
    table = Table(title=Text(one_line(title)), caption=Text(summary(states)), title_justify="left", caption_justify="left")
    for heading in ("cell", "state", "about"):
        table.add_column(heading, overflow="fold")
    for state in shown:
        table.add_row(Text(one_line(state.cell.label)), Text(state.word, STYLES[state.word]), Text(one_line(state.about)))
    if len(shown) < len(states):
        table.add_row(Text(f"... and {len(states) - len(shown)} more", "dim"), "", "")
    return table


def _most_telling(states: Sequence[State], rows: int) -> list[State]:
    """Return so many states in their order: what runs first, then what failed, and at last what is done."""
    order = ("running", "failed", "interrupted", "blocked", "waiting", "done")
    chosen = sorted(range(len(states)), key=lambda index: (order.index(states[index].word), index))[:rows]
    return [states[index] for index in sorted(chosen)]


class Lines:
    """Reports each cell once, when it has ended, where there is no terminal to show a table on."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def news(self, states: Iterable[State]) -> list[str]:
        """Return a line for every cell that has ended since the last call, none for those that had ended before the first."""
        states = list(states)
        lines = [
            line(state) for state in states if state.word in ENDED and self._known.get(state.cell.id, state.word) != state.word
        ]
        self._known = {state.cell.id: state.word for state in states}
        return lines
