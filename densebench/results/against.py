"""A paper's tables with what was measured beside each number: published | measured | difference.

    print(against("results", "neco:8"))

Rows and columns are the paper's own. A measured number stands beside a published one only where everything that decides it agrees
(`agreement`); footnotes say why others are left out, and what differs in those that stand. A number is marked as off where it
differs by more than half a point and the published value lies outside of its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from densebench.console import notice, one_line
from densebench.results.agreement import Expected, Presets, disagreements, fits, is_of, metric_names, other_backbone, remarks
from densebench.results.choosing import folders, read
from densebench.results.comparison import Comparison, Measured, comparison_table, long_form
from densebench.results.frame import frame, rows_of
from densebench.results.published import settings
from densebench.results.published.layout import Column, Items, Layout, Row, layouts
from densebench.results.published.matching import Match, matches, words
from densebench.results.published.number_files import load_published
from densebench.results.published.references import of_reference
from densebench.results.ranking import interval
from densebench.results.tables import Leaderboard

Rows = Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]
"""Which row of a paper is a backbone's, or which rows, by its name in tables: columns of published numbers and their values."""
Record = dict[str, Any]


def against(
    results: str | Path | Sequence[str | Path] | Sequence[Record],
    reference: str,
    rows: Rows | None = None,
    published: str | Path | Sequence[str | Path] | None = None,
) -> Leaderboard:
    """Return the tables of a paper with the measured numbers beside the published ones, and in CSV one row a cell.

    results: a results folder, several, or records as JSON values. reference: a paper and its table, "neco:8"; "neco:9" stands for
    Tables 9a to 9d. rows: by a backbone's name in tables, the columns of its row in the paper, as in
    {"mine": {"method": "DINO", "backbone": "ViT-S/16", "pretrain_data": "IN1K"}}; other backbones are found by their name.
    published: files of further published numbers. Several rows that fit a backbone are named in a notice.

    Raises UserError for a reference that does not exist and for a file or a row that is wrong.
    """
    files = [published] if isinstance(published, str | Path) else list(published or ())
    numbers = of_reference(load_published(*files), reference)
    records, tables, presets = _records(results), layouts(numbers), Presets()
    backbones = _backbones(records, tables, rows or {})
    compared = [_compared(layout, backbones, presets) for layout in tables]
    return Leaderboard(frame(records), [comparison_table(each) for each in compared], comparison=long_form(compared))


def _records(results: str | Path | Sequence[str | Path] | Sequence[Record]) -> list[Record]:
    if not isinstance(results, str | Path) and all(isinstance(each, dict) for each in results):
        return [record for record in results if isinstance(record, dict) and record["status"] != "failed"]
    return read(folders(results))  # type: ignore[arg-type]


def name_of(record: Record) -> str:
    """Return what tables call the backbone of a record."""
    return one_line(record["backbone"].get("name", record["backbone"]["spec"]))


@dataclass(frozen=True)
class _Backbone:
    """The records of one name in tables, each with its scores as a frame, and the rows of the paper's tables that are its own."""

    name: str
    records: Sequence[tuple[Record, pd.DataFrame]]
    found: Sequence[tuple[Layout, Match]]

    def rows(self, layout: Layout) -> list[tuple[Row, str]]:
        """Return its rows of a table, each with what differs there and may stand; none where several compete."""
        return [(match.rows[0], match.note) for of, match in self.found if of is layout and len(match.rows) == 1]

    def report(self, wanted: Any) -> None:
        """Name the rows that compete for it in a notice, or say that what is `wanted` fits no row."""
        for layout, match in self.found:
            if len(match.rows) > 1:
                rows = "; ".join(words(layout, row) for row in match.rows)
                how = "call the backbone as one of them is called here, or say its columns in `row` of a table file"
                notice(f"{self.name} fits {len(match.rows)} rows of {layout.paper} {layout.table}: {rows}; {how}")
        if wanted is not None and not any(match.rows for _, match in self.found):
            notice(f"no row of the paper is that of {self.name}: {wanted}")


def _backbones(records: Sequence[Record], tables: Sequence[Layout], rows: Rows) -> list[_Backbone]:
    by_name: dict[str, list[tuple[Record, pd.DataFrame]]] = {}
    for record in records:
        by_name.setdefault(name_of(record), []).append((record, pd.DataFrame(rows_of(record))))
    backbones = []
    for name, each in by_name.items():
        found = [(layout, match) for layout in tables for match in matches(layout, name, rows.get(name))]
        backbones.append(_Backbone(name, each, found))
        backbones[-1].report(rows.get(name))
    return backbones


def _compared(layout: Layout, backbones: Sequence[_Backbone], presets: Presets) -> Comparison:
    """Return what was measured for each cell of a table, and for backbones that are in none of the paper's tables."""
    result = Comparison(layout)
    for backbone in backbones:
        for row, note in backbone.rows(layout):
            for column in layout.columns:
                number = layout.numbers.get((row, column))
                changed = layout.changed(column) if number is None else number.changed
                fitting, reasons = _cell(backbone, _Wanted(layout.paper, column, changed, row), presets)
                if number is not None or fitting:
                    result.add(row, backbone.name, column, fitting, [note] if note else [], reasons)
        if not any(len(match.rows) == 1 for _, match in backbone.found):
            for column in layout.columns:
                wanted = _Wanted(layout.paper, column, layout.changed(column))
                result.add_other(backbone.name, column, *_cell(backbone, wanted, presets))
    return result


@dataclass(frozen=True)
class _Wanted:
    """What a cell of a paper's table asks for; changed: what it did otherwise than the preset. row: None for none of it."""

    paper: str
    column: Column
    changed: Items
    row: Row | None = None


def _cell(backbone: _Backbone, wanted: _Wanted, presets: Presets) -> tuple[list[Measured], list[str]]:
    """Return what a backbone's records measured of a cell, and why others of them may not stand there."""
    measured, reasons = [], []
    published = settings.plain(wanted.column.protocol)
    for record, scores in backbone.records:
        protocol, dataset = record["protocol"], record["dataset"]["name"]
        layer = dict(wanted.changed).get("layer", str(record["backbone"].get("layer", "last")))  # another one is a reason
        if scores.empty or not is_of(dataset, wanted.column.dataset):
            continue
        reproducing = presets.reproducing(protocol["name"], published, layer, wanted.paper)
        expected = presets.expected(protocol["name"], protocol["preset"], dataset)
        if not reproducing or (scores := _of_cell(record, scores, wanted, expected)).empty:
            continue
        in_paper = wanted.row is not None
        differing = disagreements(record, wanted.column, wanted.changed, expected, reproducing, in_paper=in_paper)
        differing += [] if wanted.row is None else other_backbone(record, wanted.row)
        if differing:
            reasons += differing
        else:
            measured.append(_measured(record, scores, expected, reproducing))
    best = min((each.preference for each in measured), default=0)
    return [each for each in measured if each.preference == best], reasons


def _of_cell(record: Record, scores: pd.DataFrame, wanted: _Wanted, expected: Expected) -> pd.DataFrame:
    """Return the scores of a record that are of the metric, the variant and the point of a cell, one for each seed."""
    variant = dict(wanted.changed).get("variant", record["protocol"]["headline"]["variant"])
    classes, column = record["dataset"].get("classes"), wanted.column
    of_metric = [column.metric in metric_names(*key, variant) for key in zip(scores.metric, scores.variant, strict=True)]
    of_point = [fits(point, column, expected, classes) for point in scores.point]
    return scores[list(map(all, zip(of_metric, of_point, strict=True)))]


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
