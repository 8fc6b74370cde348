"""What the page of the leaderboard and of the report shows of a table: columns, rows, what is left out, and what explains it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import TYPE_CHECKING

import pandas as pd

from densebench.pages.glossary import Term, term_of

if TYPE_CHECKING:
    from densebench.results.tables import Table

NAMES = ("backbone", "method", "class")  # the first column of these names a row
WORDS = (
    "layer",
    "positions",
    "debiased by",
    "upsampled by",
    "weights",
    "identity",
    "pretraining",
    "source",
    "note",
    "device",
    "data",
    "setting",
    *NAMES,
)
DETAILS = ("width", "stride", "layer", "positions", "debiased by", "upsampled by")
"""What is said of a backbone besides its name: columns that stand behind the scores."""
WRAPPED = ("backbone", "method", "pretraining", "note", "setting", "class")
"""Columns whose cells may be broken into lines."""
NUMBER = re.compile(r"[-+−]?\d")
REST = re.compile(r" (± .*|\[[a-z,]+\])$")  # what may follow a number: its ±, or footnotes
LOWER = re.compile("lower is better(?! for)")  # of all columns, not "for" one of several metrics
COSTS = "cost columns"
"""The term of the glossary that explains columns of costs."""
SEVERAL = 4
"""Notes that show, at most; of more, the first half of this number does, since it says what marks mean; the others are folded."""


@dataclass(frozen=True)
class Column:
    """A column on a page.

    first: the direction in which a click sorts first. spreads: whether something follows its numbers. scale: the ends of what the
    intervals that are drawn span. term: what explains the heading, at its first column only. backbone: whether the column is of a
    backbone.
    """

    name: str
    heading: str
    numeric: bool
    first: str
    cost: bool = False
    names_rows: bool = False
    spreads: bool = False
    scale: tuple[str, ...] = ()
    term: Term | None = None
    backbone: bool = False

    @property
    def kinds(self) -> str:
        """The classes of its cells in HTML."""
        kinds = {
            "number": self.numeric, "cost": self.cost, "text": self.name in WRAPPED, "rank": self.name == "rank",
            "names": self.names_rows,
        }  # fmt: skip
        return " ".join(name for name, has in kinds.items() if has)


@dataclass(frozen=True)
class Cell:
    """A cell: its text, the ± or footnote after it, the number to sort by, whether it is bold, and its interval as CSS."""

    text: str
    rest: str = ""
    value: str = ""
    top: bool = False
    bar: str = ""


@dataclass(frozen=True)
class Row:
    """A row: its cells, its name, and whether that is the name of a backbone that was measured."""

    cells: list[Cell]
    name: str
    backbone: bool


@dataclass(frozen=True)
class Shown:
    """What the template shows of a table. empty: columns without a value. heads: headings over columns, and over how many."""

    table: Table
    anchor: str
    title: str
    columns: list[Column]
    rows: list[Row]
    empty: list[str]
    heads: list[tuple[str, int]]
    facts: Sequence[tuple[str, str]] = ()
    datasets: Sequence[str] = ()
    protocols: Sequence[str] = ()

    @property
    def spread(self) -> int:
        """The characters of the longest text after a number: all have this width, so that numbers stand below each other."""
        return max((len(cell.rest) for row in self.rows for cell in row.cells), default=0)

    @property
    def notes(self) -> tuple[Sequence[str], Sequence[str]]:
        """The notes that show, and those that are folded."""
        notes = self.table.notes
        return (notes, ()) if len(notes) <= SEVERAL else (notes[: SEVERAL // 2], notes[SEVERAL // 2 :])

    @property
    def commands(self) -> list[tuple[int, str, str, str, str]]:
        """For each row that has a command: its index, its name, its record, the command that reproduces it, a remark on that."""
        table, none = self.table, ("",) * len(self.rows)
        rows = zip(self.rows, table.records or none, table.commands or none, table.remarks or none, strict=True)
        return [
            (index, row.name, record, command, remark) for index, (row, record, command, remark) in enumerate(rows) if command
        ]

    @property
    def unrepeatable(self) -> list[str]:
        """The rows whose records hold no command."""
        return [row.name for row, command in zip(self.rows, self.table.commands, strict=False) if not command]


def shown(table: Table, section: str, taken: set[str]) -> Shown:
    """Return a table for the template. section: the heading above, which titles need not repeat. taken: identifiers of others."""
    texts = {name: table.cells[name].astype(str).tolist() for name in table.cells}
    bars, scale = _bars(table)
    columns = _columns(table, texts, dict.fromkeys(bars, scale))
    kept = {column.name for column in columns}
    groups = [group for name, group in zip(texts, table.groups, strict=True) if name in kept] if table.groups else []
    about = table.about
    title = about.title.replace(f" on {section}", "") if about else table.caption
    return Shown(
        table, _anchor(table.of, taken), title, columns, _rows(table, texts, columns, bars),
        [name for name in texts if name not in kept], [(group, len(list(each))) for group, each in groupby(groups)],
        *((about.facts, about.datasets, about.protocols) if about else ()),
    )  # fmt: skip


def _anchor(of: str, taken: set[str]) -> str:
    """Return an identifier that no other table has."""
    name = "table-" + (re.sub(r"\W+", "-", of).strip("-") or "more")
    anchor = next(each for number in count(1) if (each := name if number == 1 else f"{name}-{number}") not in taken)
    taken.add(anchor)
    return anchor


def _columns(table: Table, texts: Mapping[str, list[str]], scales: Mapping[str, tuple[str, ...]]) -> list[Column]:
    """Return the columns that are not empty; what a backbone is and costs stands behind what was measured."""
    names_rows = next((name for name in texts if name in NAMES), next(iter(texts), None))
    seen: set[Term | None] = set()
    columns = []
    for name, heading in zip(texts, table.headings(), strict=True):
        if not any(texts[name]):
            continue
        backbone = names_rows == "class" and name != names_rows
        numeric = _is_numeric(table, name, texts[name], () if backbone else WORDS)
        term = None if backbone else term_of(heading)
        cost = term is not None and term.name == COSTS
        first = _first(table, name, cost) if numeric else "ascending"
        spreads = numeric and any(REST.search(text) for text in texts[name])
        explained = None if term in seen else term
        columns.append(Column(
            name, heading or name, numeric, first, cost, name == names_rows, spreads, scales.get(name, ()), explained, backbone,
        ))  # fmt: skip
        seen.add(term)
    return sorted(columns, key=lambda column: (column.name in DETAILS) + 2 * column.cost) if table.identities else columns


def _first(table: Table, name: str, cost: bool) -> str:
    """Return the direction in which a column of numbers is sorted by the first click: the best first."""
    lower = LOWER.search(name) or LOWER.search(table.caption) or name in ("rank", "width", "stride")
    return "ascending" if (cost and not name.endswith("/s")) or (lower and not cost) else "descending"


def _is_numeric(table: Table, name: str, texts: Sequence[str], words: Sequence[str]) -> bool:
    if table.values is not None and name in table.values and table.values[name].notna().any():
        return True
    filled = [text for text in texts if text and not text.startswith("- |")]
    return name not in words and bool(filled) and all(NUMBER.match(text) for text in filled)


def _rows(table: Table, texts: Mapping[str, list[str]], columns: Sequence[Column], bars: Mapping[str, list[str]]) -> list[Row]:
    by_column = [_cells(table, column, texts[column.name], bars.get(column.name)) for column in columns]
    names = next((texts[column.name] for column in columns if column.names_rows), [""] * len(table.cells))
    measured = bool(table.identities) and "backbone" in texts
    return [Row(list(cells), name, measured) for cells, name in zip(zip(*by_column, strict=True), names, strict=True)]


def _cells(table: Table, column: Column, texts: Sequence[str], bars: Sequence[str] | None) -> list[Cell]:
    numbers = table.values[column.name] if table.values is not None and column.name in table.values else pd.Series(dtype=float)
    values = ["" if pd.isna(number) else f"{number:.7g}" for number in numbers] or [""] * len(texts)
    rests = [found[0] if column.spreads and (found := REST.search(text)) else "" for text in texts]
    best = table.best[column.name].tolist()
    return [
        Cell(text.removesuffix(rest), rest, value, top, bar)
        for text, rest, value, top, bar in zip(texts, rests, values, best, bars or [""] * len(texts), strict=True)
    ]


def _bars(table: Table) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return how the interval of each row is drawn, as CSS, below the column of intervals, and the scale that all share."""
    column = next((name for name in table.cells if name.startswith("95 %")), None)
    intervals = table.intervals
    if column is None or intervals is None or intervals.low.isna().all():
        return {}, ()
    numbers = intervals[["low", "high", "value"]].astype(float)
    least, most = numbers.min(axis=None), numbers.max(axis=None)
    share = 100 * (numbers - least) / ((most - least) or 1.0)
    bars = [
        "" if pd.isna(low) or pd.isna(high) else f"--low:{low:.1f};--high:{high:.1f};--at:{low if pd.isna(at) else at:.1f}"
        for low, high, at in share.itertuples(index=False)
    ]
    return {column: bars}, (f"{least:.3g}", f"{most:.3g}")
