"""A paper's tables with what was measured beside each number: published | measured | difference.

    print(against("results", "neco:8"))

Rows and columns are the paper's own. A measured number stands beside a published one only where everything that decides it agrees
(`agreement`); footnotes say why others are left out, and what differs in those that stand. A number is marked as off where it
differs by more than half a point and the published value lies outside of its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from densebench.console import notice, one_line
from densebench.results.agreement import Expected, Presets, disagreements, fits, is_of, metric_names, remarks
from densebench.results.choosing import folders, read
from densebench.results.comparison import Comparison, Measured, comparison_table, long_form
from densebench.results.frame import frame, rows_of
from densebench.results.published import settings
from densebench.results.published.layout import Column, Layout, Row, layouts
from densebench.results.published.matching import match, words
from densebench.results.published.number_files import load_published
from densebench.results.published.references import of_reference
from densebench.results.ranking import interval
from densebench.results.tables import Leaderboard

Rows = Mapping[str, Mapping[str, Any]]
"""Which row of a paper is a backbone's, by its name in tables: columns of published numbers and their values."""
Record = dict[str, Any]


def against(
    results: str | Path | Sequence[str | Path] | Sequence[Record],
    reference: str,
    rows: Rows | None = None,
    published: str | Path | Sequence[str | Path] | None = None,
) -> Leaderboard:
    """Return the tables of a paper with the measured numbers beside the published ones, and in CSV one row a cell.

    results: a results folder, several, or records as JSON values. reference: a paper and its table, "neco:8"; "neco:9" stands for
    Tables 9a to 9d. rows: of backbones, by their name in tables, the columns of their row in the paper, as in
    {"mine": {"method": "DINO", "backbone": "ViT-S/16", "pretrain_data": "IN1K"}}; other backbones are found by their name.
    published: files of further published numbers. Several rows that fit a backbone are named in a notice.

    Raises UserError for a reference that does not exist and for a file or a row that is wrong.
    """
    files = [published] if isinstance(published, str | Path) else list(published or ())
    numbers = of_reference(load_published(*files), reference)
    records = _records(results)
    tables = layouts(numbers)
    matches = _Matches(tables, rows or {})
    presets = Presets()
    compared = [_compared(layout, records, matches, presets) for layout in tables]
    matches.report()
    return Leaderboard(frame(records), [comparison_table(each) for each in compared], comparison=long_form(compared))


def _records(results: str | Path | Sequence[str | Path] | Sequence[Record]) -> list[Record]:
    if not isinstance(results, str | Path) and all(isinstance(each, dict) for each in results):
        return [record for record in results if isinstance(record, dict) and record["status"] != "failed"]
    return read(folders(results))  # type: ignore[arg-type]


def name_of(record: Record) -> str:
    """Return what tables call the backbone of a record."""
    return one_line(record["backbone"].get("name", record["backbone"]["spec"]))


class _Matches:
    """The row of every backbone in every table of a reference."""

    def __init__(self, tables: Sequence[Layout], rows: Rows) -> None:
        self.tables, self.rows = tables, rows
        self.competing: dict[str, list[str]] = {}
        self.seen: dict[str, bool] = {}

    def row(self, layout: Layout, name: str) -> tuple[Row | None, str]:
        """Return a backbone's row of a table, None where there is none or several compete, and what differs in it."""
        found = match(layout, name, self.rows.get(name))
        if len(found.rows) > 1:
            self.competing.setdefault(name, []).extend(words(layout, row) for row in found.rows)
        self.seen[name] = self.seen.get(name, False) or bool(found.rows)
        return (found.rows[0], found.note) if len(found.rows) == 1 else (None, "")

    def elsewhere(self, name: str) -> bool:
        """Return whether a backbone has a row in any table of the reference."""
        return any(len(match(layout, name, self.rows.get(name)).rows) == 1 for layout in self.tables)

    def report(self) -> None:
        """Name the rows that compete for a backbone, and what was said about a backbone but fits no row."""
        for name, rows in self.competing.items():
            shown = "; ".join(dict.fromkeys(rows))
            how = "call the backbone as its row is called here, or say its columns in `row` of a table file"
            notice(f"{name} fits {len(set(rows))} rows of the paper: {shown}; {how}")
        for name in self.rows.keys() & {name for name, has_row in self.seen.items() if not has_row}:
            said = ", ".join(f"{key}={value}" for key, value in self.rows[name].items())
            notice(f"no row of the paper is that of {name} ({said})")


def _compared(layout: Layout, records: Sequence[Record], matches: _Matches, presets: Presets) -> Comparison:
    """Return what was measured for each cell of a table, and for backbones that are not in the paper."""
    result = Comparison(layout)
    relevant = [
        record for record in records if any(is_of(record["dataset"]["name"], column.dataset) for column in layout.columns)
    ]
    by_name: dict[str, list[Record]] = {}
    for record in relevant:
        by_name.setdefault(name_of(record), []).append(record)
    for name, mine in by_name.items():
        row, note = matches.row(layout, name)
        if row is None and matches.elsewhere(name):
            continue
        for column in layout.columns:
            measured, reasons = _cell(mine, column, presets, layout.paper, row is not None)
            if row is None:
                result.add_other(name, column, measured, reasons)
            elif (row, column) in layout.numbers or measured:
                result.add(row, name, column, measured, [note] if note else [], reasons)
    return result


def _cell(
    records: Sequence[Record], column: Column, presets: Presets, paper: str, in_paper: bool
) -> tuple[list[Measured], list[str]]:
    """Return what records of one backbone measured of a column, and why others of them may not stand there."""
    measured, reasons = [], []
    published = settings.plain(column.protocol)
    for record in (record for record in records if is_of(record["dataset"]["name"], column.dataset)):
        protocol, layer = record["protocol"], str(record["backbone"].get("layer", "last"))
        wanted = presets.reproducing(protocol["name"], published, layer, paper)
        if not wanted:
            continue
        expected = presets.expected(protocol["name"], protocol["preset"], layer, record["dataset"]["name"])
        scores = _scores(record, column, expected)
        if scores.empty:
            continue
        differing = disagreements(record, column, expected, wanted, in_paper=in_paper)
        if differing:
            reasons += differing
        else:
            measured.append(_measured(record, scores, expected, wanted))
    best = min((each.preference for each in measured), default=0)
    return [each for each in measured if each.preference == best], reasons


def _scores(record: Record, column: Column, expected: Expected) -> pd.DataFrame:
    """Return the scores of a record that are of the metric and the point of a column, one for each seed."""
    variant, classes = record["protocol"]["headline"]["variant"], record["dataset"].get("classes")
    rows = pd.DataFrame(rows_of(record))
    if rows.empty:
        return rows
    of_metric = [column.metric in metric_names(*key, variant) for key in zip(rows.metric, rows.variant, strict=True)]
    return rows[[ok and fits(point, column, expected, classes) for ok, point in zip(of_metric, rows.point, strict=True)]]


def _measured(record: Record, scores: pd.DataFrame, expected: Expected, wanted: Sequence[str]) -> Measured:
    """Return the mean over seeds of the scores of one point, its interval, and what a reader must know."""
    first, seeds = scores.iloc[0], scores.seed.notna().sum()
    ends = interval(scores)
    if ends is None and len(scores) == 1 and not pd.isna(first.low):
        ends = (float(first.low), float(first.high))
    notes = list(remarks(record))
    if seeds:
        notes.append(f"mean of {seeds} seeds" if seeds > 1 else "one seed")
    if ends is None:
        notes.append("no interval")
    if not expected.complete:
        notes.append("what the preset takes from the data set, such as the splits, is not compared")
    if len(wanted) > 1:
        notes.append(f"preset {record['protocol']['preset']}")
    value = Decimal(repr(round(float(scores.value.mean()), 6)))
    preference = wanted.index(record["protocol"]["preset"])
    return Measured(
        value, ends, int(first.digits), str(first.unit), str(first.direction), int(seeds), str(record["id"]), notes, preference
    )
