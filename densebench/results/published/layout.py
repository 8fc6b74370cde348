"""A published table in the paper's own layout: which number stands in which row and in which column.

One rule for all papers: what was pretrained makes a row (method, backbone, parameters, data, epochs, ablated values), what it was
evaluated by makes a column (data set, protocol, metric, fraction, K, ...). Rows and columns stand in the order in which the file
first has them, columns of one data set side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from densebench.results.published import settings
from densebench.results.published.number_files import EVALUATION
from densebench.results.tables import metric_name

Items = tuple[tuple[str, str], ...]


class Row(NamedTuple):
    """What was pretrained. items: the ablated values."""

    method: str
    backbone: str
    params_millions: str
    pretrain_data: str
    pretrain_epochs: str
    items: Items = ()


class Column(NamedTuple):
    """What it was evaluated by. protocol: as the file names it."""

    protocol: str
    dataset: str
    metric: str
    items: Items = ()


class Number(NamedTuple):
    """A value as the paper prints it, what a reader must know of it, and its setting as the file has it.

    changed: settings in which the paper differs from the preset, and the variant of the metric where it is another one.
    """

    value: str
    note: str
    setting: str
    changed: Items = ()


@dataclass(frozen=True)
class Layout:
    """The rows and columns of one table of a paper, and its numbers; a row may lack some."""

    paper: str
    table: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    numbers: dict[tuple[Row, Column], Number]

    def headings(self) -> list[str]:
        """Return what tells the columns of one data set apart, such as "1/128"; each is unique together with its data set."""
        protocols = {settings.plain(column.protocol) for column in self.columns}
        metrics, shared = {column.metric for column in self.columns}, self.shared()
        names = []
        for column in self.columns:
            parts = [settings.plain(column.protocol)] if len(protocols) > 1 else []
            parts += [_short(*item) for item in column.items if item not in shared]
            parts += [metric_name(column.metric)] if len(metrics) > 1 or not parts else []
            names.append(", ".join(parts))
        keys = [(column.dataset, name) for column, name in zip(self.columns, names, strict=True)]
        return [
            name if keys.count(key) == 1 else f"{name}, {column.protocol}"
            for column, name, key in zip(self.columns, names, keys, strict=True)
        ]

    def changed(self, column: Column) -> Items:
        """Return what the paper changed in every number of a column, which a number beside them must have too."""
        each = [number.changed for (_, of), number in self.numbers.items() if of == column]
        return tuple(item for item in each[0] if all(item in items for items in each))

    def shared(self) -> Items:
        """Return the items that every column has, which a caption says once."""
        first, *rest = self.columns
        return tuple(item for item in first.items if rest and all(item in column.items for column in rest))


def layouts(numbers: pd.DataFrame) -> list[Layout]:
    """Return the layout of each table that numbers are of."""
    return [_layout(key, part) for key, part in numbers.groupby(["paper", "table"], sort=False)]


def _layout(key: tuple[str, str], part: pd.DataFrame) -> Layout:
    numbers: dict[tuple[Row, Column], Number] = {}
    beside = _beside(part)
    for line in part.to_dict("records"):
        parts = settings.items(line["setting"])
        of_column = {name for name in parts if settings.of_evaluation(line["protocol"], name) or name in beside}
        ablated = tuple((name, parts[name]) for name in parts if name not in of_column)
        row = Row(**{name: line[name] for name in Row._fields[:-1]}, items=ablated)
        about = (line["protocol"], line["dataset"], line["metric"])
        items = tuple((name, parts[name]) for name in parts if name in of_column)
        changed = tuple(settings.items(line[EVALUATION]).items())
        numbers[row, Column(*about, items)] = Number(line["value"], line["note"], line["setting"], changed)
    rows = list(dict.fromkeys(row for row, _ in numbers))
    columns = _merged([[column for of, column in numbers if of == row] for row in rows])
    datasets = list(dict.fromkeys(column.dataset for column in columns))
    columns.sort(key=lambda column: datasets.index(column.dataset))
    return Layout(*key, rows, columns, numbers)


def _merged(sequences: Sequence[Sequence[Column]]) -> list[Column]:
    """Return all columns in an order that keeps that of each row: one that a row adds stands after the one before it there.

    One without any before it stands before the next one that is known, or at the end.
    """
    merged: list[Column] = []
    for columns in sequences:
        for before, column in zip((None, *columns), columns, strict=False):
            if column not in merged:
                later = [merged.index(other) for other in columns if other in merged]
                merged.insert(merged.index(before) + 1 if before is not None else min(later, default=len(merged)), column)
    return merged


def _beside(part: pd.DataFrame) -> set[str]:
    """Return the items that are remarks on whole columns: there each has one value, and other columns of the table lack it.

    Such is "8 RTX A6000" of a column of hours.
    """
    about = part.protocol + "\n" + part.dataset + "\n" + part.metric
    columns = [[settings.items(setting) for setting in rows.setting] for _, rows in part.groupby(about, sort=False)]
    names = {name for column in columns for setting in column for name in setting}
    result = set()
    for name in names:
        values = [{setting.get(name) for setting in column} for column in columns]
        if all(len(value) == 1 for value in values) and {None} in values:
            result.add(name)
    return result


def _short(name: str, value: str) -> str:
    return value if name == "fraction" else settings.text({name: value})
