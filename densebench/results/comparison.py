"""A paper's table with measured numbers in it: its cells, as a table to show and as one row a cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pandas as pd

from densebench.results.published import settings
from densebench.results.published.layout import Column, Layout, Number, Row
from densebench.results.tables import About, Table, metric_name

TOLERANCE = Decimal("0.5")
"""Points by which a measured % may differ without being marked."""
OFF = " !"
TIMES = ("hours", "seconds_per_epoch")
"""Metrics of published tables that are not in %."""
LABELS = ("method", "backbone", "params", "data", "epochs", "setting")
LEGEND = "Cells: published | measured | difference (measured - published); published alone where nothing comparable is measured."
MARK = "Bold with !: off by more than 0.5 points, and the published value lies outside of the 95 % interval of the measured one."


@dataclass(frozen=True)
class Measured:
    """What a record measured of a cell: the mean over its seeds, and what a reader must know of it.

    ends: the 95 % interval, None where the record has none. preference: 0 for the first of the presets that may stand there.
    """

    value: Decimal
    ends: tuple[float, float] | None
    digits: int
    unit: str
    direction: str
    seeds: int
    record: str
    notes: Sequence[str] = ()
    preference: int = 0
    backbone: str = ""


@dataclass
class Cell:
    """One cell: the published number, what was measured, and footnotes. Where several records fit, none is chosen."""

    number: Number | None = None
    fitting: list[Measured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def measured(self) -> Measured | None:
        """The one measured number."""
        return self.fitting[0] if len(self.fitting) == 1 else None

    @property
    def difference(self) -> Decimal | None:
        """Measured - published."""
        return None if self.measured is None or self.number is None else self.measured.value - Decimal(self.number.value)

    @property
    def is_off(self) -> bool:
        """Whether the two differ by more than the tolerance, and the published one lies outside of the measured interval.

        The tolerance of what is not in % is half a unit of the last published digit. Without an interval it decides alone.
        """
        if (difference := self.difference) is None or self.measured is None or self.number is None:
            return False
        tolerance = TOLERANCE if self.measured.unit == "%" else Decimal(5).scaleb(-_decimals(self.number.value) - 1)
        low, high = self.measured.ends or (None, None)
        return abs(difference) > tolerance and not (low is not None and low <= float(self.number.value) <= high)  # type: ignore[operator]

    @property
    def footnotes(self) -> list[str]:
        """What a reader must know: of the published number, of the measured one, or why there is none."""
        notes = [self.number.note] if self.number is not None and self.number.note else []
        if self.measured is not None:
            notes += [*self.notes, *self.measured.notes]
        elif self.fitting:
            records = ", ".join(f"{each.record} ({each.backbone})" for each in self.fitting)
            notes.append(f"{len(self.fitting)} records fit: {records}; choose one by its backbone, or remove the others")
        else:
            notes += self.reasons
        return list(dict.fromkeys(notes))

    def text(self) -> str:
        """Return the cell without its footnotes."""
        if self.measured is None:
            return "" if self.number is None else self.number.value
        if self.number is None or self.difference is None:
            return f"- | {self.measured.value:.{self.measured.digits}f} | -"
        digits = _decimals(self.number.value)
        difference = f"{self.difference:+.{digits}f}"
        difference = difference if Decimal(difference) else difference[1:]
        return f"{self.number.value} | {self.measured.value:.{digits}f} | {difference}{OFF if self.is_off else ''}"


def _decimals(printed: str) -> int:
    return len(printed.partition(".")[2])


class Comparison:
    """The cells of a paper's table, and those of backbones that are not in it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.cells = {key: Cell(number) for key, number in layout.numbers.items()}
        self.others: dict[str, dict[Column, Cell]] = {}
        self.names: dict[Row, list[str]] = {}

    def add(
        self, row: Row, name: str, column: Column, fitting: Sequence[Measured], notes: Sequence[str], reasons: Sequence[str]
    ) -> None:
        """Put what was measured of a backbone, or why nothing is comparable, into a cell of the paper."""
        cell = self.cells.setdefault((row, column), Cell())
        _fill(cell, name, fitting, notes, reasons)
        if fitting and name not in (names := self.names.setdefault(row, [])):
            names.append(name)

    def add_other(self, name: str, column: Column, fitting: Sequence[Measured], reasons: Sequence[str]) -> None:
        """Put what was measured of a backbone that is not in the paper below its rows."""
        if fitting or reasons:
            _fill(self.others.setdefault(name, {}).setdefault(column, Cell()), name, fitting, (), reasons)

    def shown(self) -> list[tuple[Row | str, dict[Column, Cell]]]:
        """Return all rows: those of the paper, then backbones that are not in it and have at least one number."""
        rows: dict[Row, dict[Column, Cell]] = {row: {} for row in self.layout.rows}
        for (row, column), cell in self.cells.items():
            rows[row][column] = cell
        others = {name: cells for name, cells in self.others.items() if any(cell.fitting for cell in cells.values())}
        return [*rows.items(), *others.items()]

    def left_out(self) -> list[str]:
        """Return the backbones that are not in the paper and have no comparable number, with the reasons, one line a reason."""
        by_reasons: dict[str, list[str]] = {}
        for name, cells in self.others.items():
            if not any(cell.fitting for cell in cells.values()):
                reasons = dict.fromkeys(reason for cell in cells.values() for reason in cell.reasons)
                by_reasons.setdefault("; ".join(reasons), []).append(name)
        return [f"Not in the paper and not shown: {', '.join(names)}: {reasons}." for reasons, names in by_reasons.items()]


def _fill(cell: Cell, name: str, fitting: Sequence[Measured], notes: Sequence[str], reasons: Sequence[str]) -> None:
    cell.fitting += [Measured(**{**vars(each), "backbone": name}) for each in fitting]
    cell.notes += notes
    cell.reasons += reasons


class _Footnotes:
    """Footnotes by their letters, in the order in which they are first used."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def mark(self, notes: Iterable[str]) -> str:
        """Return the letters of some notes, " [a,b]"; "" for none."""
        letters = [self.letters.setdefault(note, _letter(len(self.letters))) for note in notes]
        return f" [{','.join(letters)}]" if letters else ""

    def lines(self) -> list[str]:
        return [f"[{letter}] {note}" for note, letter in self.letters.items()]


def _letter(index: int) -> str:
    first, last = divmod(index, 26)
    return (_letter(first - 1) if first else "") + chr(ord("a") + last)


def comparison_table(comparison: Comparison) -> Table:
    """Return the table: the columns that name a row, then a column for each of the paper's, under the name of its data set."""
    layout, footnotes = comparison.layout, _Footnotes()
    headings = layout.headings()
    names = [f"{column.dataset} {heading}" for column, heading in zip(layout.columns, headings, strict=True)]
    texts, off = [], []
    for row, cells in comparison.shown():
        texts.append(_labels(row, comparison, footnotes))
        off.append(dict.fromkeys(LABELS, False))
        for column, name in zip(layout.columns, names, strict=True):
            cell = cells.get(column, Cell())
            texts[-1][name] = cell.text() + footnotes.mark(cell.footnotes)
            off[-1][name] = cell.is_off
    frame, marks = pd.DataFrame(texts), pd.DataFrame(off)
    empty = [label for label in LABELS if not frame[label].any()]
    groups = ("",) * (len(LABELS) - len(empty)) + tuple(column.dataset for column in layout.columns)
    any_measured = any(cell.measured for _, cells in comparison.shown() for cell in cells.values())
    legend = [LEGEND, *([MARK] if any_measured else [])]
    return Table(
        _caption(comparison), frame.drop(columns=empty), marks.drop(columns=empty).astype(bool), groups=groups,
        notes=(*legend, *footnotes.lines(), *comparison.left_out()), about=_about(comparison),
    )  # fmt: skip


def _labels(row: Row | str, comparison: Comparison, footnotes: _Footnotes) -> dict[str, str]:
    if isinstance(row, str):
        return dict.fromkeys(LABELS, "") | {"method": f"{row} (not in the paper)"}
    usual = f"{row.method} {row.backbone}".casefold()
    others = [name for name in comparison.names.get(row, []) if name.casefold() != usual]
    mark = footnotes.mark([f"measured: {', '.join(others)}"] if others else [])
    params = f"{row.params_millions}M" if row.params_millions else ""
    setting = settings.text(dict(row.items))
    values = (f"{row.method}{mark}", row.backbone, params, row.pretrain_data, row.pretrain_epochs, setting)
    return dict(zip(LABELS, values, strict=True))


def _about(comparison: Comparison) -> About:
    """Return what the caption says, in parts."""
    layout = comparison.layout
    name = f"{layout.paper} {layout.table}, published beside measured"
    said, filled = _caption(comparison).removeprefix(f"{name}: ").rsplit("; ", 1)
    datasets = tuple(dict.fromkeys(column.dataset for column in layout.columns))
    protocols = tuple(dict.fromkeys(settings.plain(column.protocol) for column in layout.columns))
    return About(name, datasets, protocols, (("score", said), ("measured", filled)))


def _caption(comparison: Comparison) -> str:
    layout = comparison.layout
    protocols = dict.fromkeys(settings.plain(column.protocol) for column in layout.columns)
    metrics = dict.fromkeys(column.metric for column in layout.columns)
    cells = [(column, cell.measured) for _, cells in comparison.shown() for column, cell in cells.items() if cell.measured]
    units = {column.metric: measured.unit for column, measured in cells}
    directions = {column.metric: measured.direction for column, measured in cells}
    words = [metric_name(name) + (f" in {unit}" if (unit := units.get(name, _unit(name))) else "") for name in metrics]
    shared = settings.text(dict(layout.shared()))
    filled = sum(cell.difference is not None for cell in comparison.cells.values())
    lower = [metric_name(name) for name, direction in directions.items() if direction == "lower"]
    signs = [f"lower is better for {', '.join(lower)}"] if lower else ["higher is better"] if directions else []
    parts = [", ".join(protocols), ", ".join(words), *([shared] if shared else []), *signs]
    return (
        f"{layout.paper} {layout.table}, published beside measured: {', '.join(parts)}; "
        f"{filled} of {len(layout.numbers)} numbers measured"
    )


def _unit(metric: str) -> str:
    return "" if metric in TIMES else "%"


def long_form(comparisons: Iterable[Comparison]) -> pd.DataFrame:
    """Return one row for each cell that has a published or a measured number, or a reason why it has none."""
    lines = pd.DataFrame([line for comparison in comparisons for line in _lines(comparison)])
    return lines.astype({"seeds": "Int64"})


def _lines(comparison: Comparison) -> Iterator[dict[str, Any]]:
    layout = comparison.layout
    for row, cells in comparison.shown():
        for column in (column for column in layout.columns if column in cells):
            cell, measured = cells[column], cells[column].measured
            shown = Row(row, "", "", "", "") if isinstance(row, str) else row
            about = {name: getattr(shown, name) for name in Row._fields[:-1]}
            items = {**dict(shown.items), **dict(column.items)}
            low, high = (None, None) if measured is None or measured.ends is None else (round(end, 4) for end in measured.ends)
            yield {
                "paper": layout.paper, "table": layout.table, **about, "protocol": settings.plain(column.protocol),
                "dataset": column.dataset, "setting": cell.number.setting if cell.number else settings.joined(items),
                "metric": column.metric, "published": cell.number.value if cell.number else None,
                "measured": None if measured is None else float(measured.value),
                "difference": None if cell.difference is None else float(cell.difference), "low": low, "high": high,
                "off": None if cell.difference is None else cell.is_off, "seeds": None if measured is None else measured.seeds,
                "unit": "" if measured is None else measured.unit, "direction": "" if measured is None else measured.direction,
                "record": "" if measured is None else measured.record,
                "measured_backbone": "" if measured is None else measured.backbone, "in_paper": not isinstance(row, str),
                "footnotes": "; ".join(cell.footnotes),
            }  # fmt: skip
