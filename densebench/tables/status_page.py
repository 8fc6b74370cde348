"""What the page of a table's work shows, as values: cells by state, a table of scores, logs of failures, time."""

from __future__ import annotations

import functools
import os
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from densebench.console import clock
from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.score import heading, in_unit, point_of, sort_key, without_seed
from densebench.results.tables import metric_name
from densebench.tables.display import summary
from densebench.tables.states import STATES, State, TableFolder

TAIL = 15  # last lines of a log that a page shows
MOST_BYTES = 20_000  # of a log that are read for them
MOST_POINTS = 6  # of a cell whose values are shown
RUN_PAGE = "index.html"
"""The page of a run in its folder, see `densebench.training.page`."""


@dataclass(frozen=True)
class StatusPage:
    """The states of a table's cells, at a moment in seconds since 1970."""

    title: str
    states: Sequence[State]
    folder: TableFolder
    now: float

    def values(self) -> dict[str, Any]:
        """Return what the template shows, by name."""
        counts = Counter(state.word for state in self.states)
        ended = [state for state in self.states if state.word in ("failed", "interrupted")]
        return {
            "title": self.title, "word": self._word(counts), "sentence": summary(self.states), "changed": self._changed(),
            "counts": [(word, counts[word]) for word in STATES if counts[word]], "all": len(self.states),
            "done": counts["done"], "facts": self._facts(), "failures": [self._failure(state) for state in ended],
            "running": [self._cell(state) for state in self.states if state.word == "running"], "grid": self._grid(),
            "pretrainings": self._of_kind("pretrain"), "figures": self._of_kind("figure"),
            "cells": [self._cell(state) for state in self.states], "table": self.folder.table,
        }  # fmt: skip

    def _word(self, counts: Counter[str]) -> str:
        """Return the state of the whole: running if any cell is, done if all are, else the gravest."""
        if counts["done"] == len(self.states):
            return "done"
        return next((word for word in ("running", "failed", "interrupted", "blocked") if counts[word]), "waiting")

    def _changed(self) -> dict[str, Any]:
        text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.now))
        return {"what": "written", "text": text, "seconds": round(self.now)}

    def _facts(self) -> dict[str, str]:
        """Return how much is done, how long the cells have taken, and how much longer the rest will take if it is like them."""
        facts = {"cells done": f"{sum(state.word == 'done' for state in self.states)} of {len(self.states)}"}
        spent = sum(filter(None, (self._seconds(state) for state in self.states)))
        facts |= {"time spent in cells": clock(spent)} if spent else {}
        left = self._left()
        return facts | ({"estimated time left": clock(left)} if left else {})

    def _seconds(self, state: State) -> float | None:
        """Return how long a cell has taken, or has been running; None where nothing says so."""
        seconds = state.note.get("seconds")
        if state.word != "running":
            return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e9 else None
        with suppress(ValueError, OverflowError):
            return max(0.0, self.now - datetime.fromisoformat(str(state.note.get("started"))).timestamp())
        return None

    def _left(self) -> float | None:
        """Return the seconds that running and waiting cells will take, by those that are done; None where none is like one."""
        rest = [state for state in self.states if state.word in ("running", "waiting")]
        total = 0.0
        for state in rest:
            usual = self._usual(state)
            if usual is None:
                return None
            total += max(0.0, usual - (self._seconds(state) or 0.0)) if state.word == "running" else usual
        return total / max(1, sum(state.word == "running" for state in rest))

    def _usual(self, state: State) -> float | None:
        """Return the mean time of the cells that are done and most like one: same protocol and data, protocol, or kind."""
        done = [(each.cell, seconds) for each in self.states if each.word == "done" and (seconds := self._seconds(each))]
        for names in (("kind", "protocol", "dataset"), ("kind", "protocol"), ("kind",)):
            alike = [seconds for cell, seconds in done if all(getattr(cell, n) == getattr(state.cell, n) for n in names)]
            if alike:
                return statistics.fmean(alike)
        return None

    def _of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [self._cell(state) for state in self.states if state.cell.kind == kind]

    def _cell(self, state: State) -> dict[str, Any]:
        """Return what is shown of one cell."""
        cell, note, seconds = state.cell, state.note, self._seconds(state)
        values: dict[str, Any] = {
            "label": cell.label,
            "state": state.word,
            "about": state.about,
            "command": shlex.join(cell.command),
        }
        values |= {"seconds": clock(seconds) if seconds is not None else "", "id": cell.id}
        values |= {"scored": note.get("scored", 0), "total": note.get("total", 0)}
        values["sheets"] = [self._href(Path(path)) for path in note.get("outputs", [])] if cell.kind == "figure" else []
        return {**values, "links": self._links(state)}

    def _links(self, state: State) -> list[tuple[str, str]]:
        """Return the names and addresses of what a cell has made so far: the page of its run, or its record."""
        output = state.cell.output
        if output is not None and output.is_dir():
            has_page = (output / RUN_PAGE).is_file()
            return [("page of the run", self._href(output / RUN_PAGE)) if has_page else ("run folder", self._href(output))]
        if state.cell.kind == "evaluation" and state.word == "done":
            return [("record", self._href(self._record(state)))]
        return []

    def _record(self, state: State) -> Path:
        return self.folder.results / "records" / f"{state.note.get('record')}.json"

    def _grid(self) -> dict[str, Any]:
        """Return backbones by evaluations: for each of their cells the state and, where it is done, the headline values."""
        cells = [state for state in self.states if state.cell.kind == "evaluation"]
        columns = {(state.cell.protocol, state.cell.dataset): "" for state in cells}
        rows: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
        for state in cells:
            place = rows.setdefault(state.cell.backbone, {}).setdefault((state.cell.protocol, state.cell.dataset), [])
            place.append({**self._cell(state), **self._scores(state), "record": self._href(self._record(state))})
            columns[state.cell.protocol, state.cell.dataset] = (
                place[-1]["metric"] or columns[state.cell.protocol, state.cell.dataset]
            )
        return {"columns": columns, "rows": [(name, [row.get(column, []) for column in columns]) for name, row in rows.items()]}

    def _scores(self, state: State) -> dict[str, Any]:
        """Return the headline values of a cell that is done, see `_headline`."""
        if state.word == "done":
            with suppress(OSError, UserError):
                about = self._record(state).stat()
                return _headline(self._record(state), about.st_mtime_ns, about.st_size)
        return {"metric": "", "values": [], "more": 0}

    def _failure(self, state: State) -> dict[str, Any]:
        """Return what is known of a cell that failed: the line, and the end of its log, if that is one of this table."""
        log = Path(str(state.note.get("log") or ""))
        is_ours = bool(state.note.get("log")) and _within(log, self.folder.jobs)
        tail = _tail(log) if is_ours else []
        return {**self._cell(state), "log": self._href(log) if is_ours and log.is_file() else "", "tail": "\n".join(tail)}

    def _href(self, path: Path) -> str:
        """Return the address of a file as the page sees it."""
        return quote(os.path.relpath(path.absolute(), self.folder.path.absolute()).replace(os.sep, "/"), errors="surrogateescape")


@functools.lru_cache(maxsize=4096)  # a page is written again and again
def _headline(path: Path, _changed: int, _size: int) -> dict[str, Any]:
    """Return the headline metric of a record, and for each point its name and the mean over seeds. Raises UserError."""
    record = records.read(path)
    headline = record["protocol"]["headline"]
    shown = [score for score in record["scores"] if headline.items() <= score.items()]
    points = sorted({without_seed(point_of(score)) for score in shown}, key=sort_key)
    values = []
    for point in points[:MOST_POINTS]:
        at = [score for score in shown if without_seed(point_of(score)) == point]
        mean = statistics.fmean(score["value"] for score in at)
        values.append((heading(point) if len(points) > 1 else "", f"{mean:.{at[0]['digits']}f}"))
    metric = metric_name(headline["metric"]) + in_unit(shown[0]["unit"], shown[0]["direction"]) if shown else ""
    return {"metric": metric, "values": values, "more": max(0, len(points) - MOST_POINTS)}


def _within(path: Path, folder: Path) -> bool:
    """Return whether a file lies in a folder, wherever links lead: a note may name any file of the machine."""
    with suppress(OSError, ValueError):
        return path.resolve().is_relative_to(folder.resolve())
    return False


def _tail(path: Path) -> list[str]:
    """Return the last lines of a log; none where it cannot be read."""
    with suppress(OSError), path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - MOST_BYTES))
        return stream.read().decode("utf-8", "replace").splitlines()[-TAIL:]
    return []
