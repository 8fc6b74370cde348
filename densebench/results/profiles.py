"""Profiles: every backbone in one row, with what each protocol makes of it on one data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from densebench.results.coverage import WARNING
from densebench.results.ranking import SIGNS
from densebench.results.score import heading, in_unit, place

if TYPE_CHECKING:
    from densebench.results.leaderboard import Table


def profiles(scores: pd.DataFrame) -> list[Table]:
    """One table for every data set on which several groups of records were made.

    Rows are backbones, those with the most columns first, then by their mean, in which values that are better when lower count as
    negative; columns are groups and points, means over seeds. A column says what it does not share with all others: its unit,
    that lower is better, and that a part of a split is scored.
    """
    from densebench.results.leaderboard import Table

    found = []
    shown = scores[scores.headline]
    for (dataset, split), own in shown.groupby(["dataset", "split"], sort=True):
        if own.group.nunique() < 2:
            continue
        alike = {name: own[name].nunique() == 1 for name in ("unit", "direction", "partial")}
        own = own.assign(column=_columns(own, alike), backbone=row_names(own))
        values = own.pivot_table(index="backbone", columns="column", values="value", aggfunc="mean")
        values = values[sorted(values.columns, key=dict(zip(own.column, own.apply(_order, axis=1), strict=True)).__getitem__)]
        columns = own.drop_duplicates("column").set_index("column").loc[values.columns]
        gains = values * columns.direction.map(SIGNS)
        order = sorted(values.index, key=lambda name: (-gains.loc[name].count(), -gains.loc[name].mean(), name))
        values, gains = values.loc[order], gains.loc[order]
        cells = pd.DataFrame({name: _texts(values[name], digits) for name, digits in columns.digits.items()}, values.index)
        cells.insert(0, "backbone", cells.index)
        best = (gains == gains.max()).reindex(columns=cells.columns, fill_value=False)
        caption = _caption(f"{dataset} {split}", own, alike)
        found.append(Table(caption, cells.reset_index(drop=True), best.reset_index(drop=True), f"{dataset} {split}"))
    return found


def _texts(values: pd.Series, digits: int) -> pd.Series:
    return values.map(lambda value: "" if pd.isna(value) else f"{value:.{digits}f}")


def _caption(where: str, own: pd.DataFrame, alike: dict[str, bool]) -> str:
    """Return what all columns share: where, the unit, that lower is better, that parts of the splits are scored."""
    one = own.iloc[0]
    unit = in_unit(one.unit if alike["unit"] else "", "higher")
    lower = in_unit("", one.direction if alike["direction"] else "higher")
    text = f"profiles on {where}: headline{unit} by protocol{lower}; compare within a column only"
    if not own.partial.all():
        return text
    return f"{text}; {one.coverage if own.coverage.nunique() == 1 else 'parts of the splits'}, {WARNING}"


def _columns(own: pd.DataFrame, alike: dict[str, bool]) -> pd.Series:
    """Return the name of a column: protocol, preset, size and point, and what it does not share with all others.

    The group is added where two groups would have the same name.
    """

    def name(row: pd.Series) -> str:
        more = in_unit("" if alike["unit"] else row.unit, "higher" if alike["direction"] else row.direction)
        more += f" ({row.coverage})" if row.partial and not alike["partial"] else ""
        return f"{row.protocol}/{row.preset}{_size(row)} {heading(row.point)}{more}"

    short = own.apply(name, axis=1)
    groups = own.groupby(short).group.transform("nunique")
    return short.where(groups == 1, short + " " + own.group)


def _size(row: pd.Series) -> str:
    return "" if pd.isna(row.image_size) else f" {int(row.image_size)} px"


def row_names(own: pd.DataFrame) -> pd.Series:
    """Return the name of a row: the given name, else the spec. Backbones that differ only in their names are one row.

    Layer, positions and weights are added where two rows would have the same name, and the identity where that is not enough.
    """
    key = own.identity
    given = own.assign(bare=own["name"] == own.spec).sort_values("bare", kind="stable").drop_duplicates("identity")
    name = key.map(given.set_index("identity")["name"])
    full = name + " (" + own.layer.astype(str) + ", " + own.pos_embed.astype(str) + ", " + own.digest + ")"
    fullest = full.str.removesuffix(")") + ", " + key + ")"
    name = name.where(key.groupby(name).transform("nunique") == 1, full)
    return name.where(key.groupby(name).transform("nunique") == 1, fullest)


def _order(row: pd.Series) -> tuple[str, str, float, list[tuple[str, float, str]]]:
    return row.protocol, row.preset, 0.0 if pd.isna(row.image_size) else float(row.image_size), place(row.point)
