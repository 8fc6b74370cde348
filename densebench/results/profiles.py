"""Profiles: every backbone in one row, with what each protocol makes of it on one data set."""

from __future__ import annotations

import re

import pandas as pd

from densebench.results.coverage import WARNING
from densebench.results.naming import labelled
from densebench.results.ranking import best_of
from densebench.results.score import heading, in_unit, sort_key
from densebench.results.tables import About, Table

ORDER = "rows by columns filled, then by name: no ranking"


def profiles(scores: pd.DataFrame) -> list[Table]:
    """Return one table for every data set on which several groups of records were made.

    Rows are backbones, those with the most columns first, then by name: protocols have no common scale, so a mean over them would
    rank nothing. Columns are groups and points, means over seeds. A column says what it does not share with all others: its unit,
    that lower is better, and that a part of a split is scored.
    """
    tables = []
    shown = labelled(scores[scores.headline])
    for (dataset, split), rows in shown.groupby(["dataset", "split"], sort=True):
        if rows.group.nunique() < 2:
            continue
        alike = {name: rows[name].nunique() == 1 for name in ("unit", "direction", "partial")}
        columns = _columns(rows, alike)
        keys = pd.MultiIndex.from_frame(rows[["group", "point"]])
        rows = rows.assign(column=columns.column.reindex(keys).to_numpy())
        values = rows.pivot_table(index="label", columns="column", values="value", aggfunc="mean")
        columns = columns[columns.column.isin(values.columns)].drop_duplicates("column").set_index("column")
        values = values[list(columns.index)]
        filled = values.count(axis=1).to_dict()
        values = values.loc[sorted(filled, key=lambda name: (-filled[name], _natural(name)))]
        cells = pd.DataFrame({name: _texts(values[name], digits) for name, digits in columns.digits.items()}, values.index)
        cells.insert(0, "backbone", cells.index)
        best = best_of(values, columns.direction, columns.digits).reindex(columns=cells.columns, fill_value=False)
        identities = rows.drop_duplicates("label").set_index("label").identity[values.index]
        texts, marks, numbers = (
            each.reset_index(drop=True).rename_axis(columns=None) for each in (cells, best, values.reindex(columns=cells.columns))
        )
        caption, sources = _caption(f"{dataset} {split}", rows, alike), tuple(dict.fromkeys(columns.group))
        about = _about(dataset, split, rows, alike)
        tables.append(
            Table(caption, texts, marks, f"{dataset} {split}", tuple(identities), values=numbers, about=about, sources=sources)
        )
    return tables


def _natural(name: str) -> list[tuple[str, int]]:
    """Return a key that sorts names as people do: "layer 8" before "layer 10", capital and small letters alike."""
    return [(text.casefold(), int(digits or 0)) for text, digits in re.findall(r"([^0-9]*)([0-9]{0,9})", name)]


def _texts(values: pd.Series, digits: int) -> pd.Series:
    return values.map(lambda value: "" if pd.isna(value) else f"{value:.{digits}f}")


def _caption(where: str, rows: pd.DataFrame, alike: dict[str, bool]) -> str:
    """Return what all columns share: data set and split, the unit, that lower is better, that parts of the splits are scored."""
    first = rows.iloc[0]
    unit = in_unit(first.unit if alike["unit"] else "", "higher")
    lower = in_unit("", first.direction if alike["direction"] else "higher")
    text = f"profiles on {where}: headline{unit} by protocol{lower}; compare within a column only; {ORDER}"
    if not rows.partial.all():
        return text
    return f"{text}; {first.coverage if rows.coverage.nunique() == 1 else 'parts of the splits'}, {WARNING}"


def _about(dataset: str, split: str, rows: pd.DataFrame, alike: dict[str, bool]) -> About:
    """Return what the caption says, in parts."""
    first = rows.iloc[0]
    unit = in_unit(first.unit if alike["unit"] else "", first.direction if alike["direction"] else "higher")
    facts = {
        "data set": f"{dataset} {split}",
        "images": first.coverage if rows.coverage.nunique() == 1 else "parts of the splits" if rows.partial.any() else "",
        "score": f"headline{unit} of each protocol",
        "note": "; ".join([f"compare within a column only; {ORDER}", *([WARNING] if rows.partial.all() else [])]),
    }
    protocols = tuple(dict.fromkeys(rows.protocol + "/" + rows.preset))
    stated = tuple((name, value) for name, value in facts.items() if value)
    return About(f"Profiles on {dataset} {split}", (str(dataset),), protocols, stated)


def _columns(rows: pd.DataFrame, alike: dict[str, bool]) -> pd.DataFrame:
    """Return the columns in their order, one row for each group and point: what they show, and `column`, the name.

    A name says protocol, preset, size and point, and what the column does not share with all others. The group is added where two
    groups would have the same name.
    """

    def name(row: pd.Series) -> str:
        size = "" if pd.isna(row.image_size) else f" {int(row.image_size)} px"
        suffix = in_unit("" if alike["unit"] else row.unit, "higher" if alike["direction"] else row.direction)
        suffix += f" ({row.coverage})" if row.partial and not alike["partial"] else ""
        return f"{row.protocol}/{row.preset}{size} {heading(row.point)}{suffix}"

    each = rows.drop_duplicates(["group", "point"]).set_index(["group", "point"], drop=False)
    each = each.iloc[sorted(range(len(each)), key=lambda index: _order(each.iloc[index]))]
    names = each.apply(name, axis=1)
    groups = each.group.groupby(names).transform("nunique")
    return each.assign(column=names.where(groups == 1, names + " " + each.group))


def _order(row: pd.Series) -> tuple[str, str, float, list[tuple[str, float, str]], str]:
    """Return a key that sorts columns."""
    return row.protocol, row.preset, 0.0 if pd.isna(row.image_size) else float(row.image_size), sort_key(row.point), row.group
