"""Profiles: every backbone in one row, with what each protocol makes of it on one data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from densebench.evaluator import heading, place

if TYPE_CHECKING:
    from densebench.leaderboard import Table


def profiles(scores: pd.DataFrame) -> list[Table]:
    """One table for every data set on which several groups of records were made.

    Rows are backbones, those with the most columns first, then by their mean; columns are groups and points, means over seeds.
    """
    from densebench.leaderboard import Table

    found = []
    shown = scores[scores.headline]
    for (dataset, split), own in shown.groupby(["dataset", "split"], sort=True):
        if own.group.nunique() < 2:
            continue
        own = own.assign(column=_columns(own), backbone=row_names(own))
        values = own.pivot_table(index="backbone", columns="column", values="value", aggfunc="mean")
        values = values[sorted(values.columns, key=dict(zip(own.column, own.apply(_order, axis=1), strict=True)).__getitem__)]
        order = sorted(values.index, key=lambda name: (-values.loc[name].count(), -values.loc[name].mean(), name))
        values = values.loc[order]
        cells = values.map(lambda value: "" if pd.isna(value) else f"{value:.1f}")
        cells.insert(0, "backbone", cells.index)
        best = (values == values.max()).reindex(columns=cells.columns, fill_value=False)
        caption = f"profiles on {dataset} {split}: headline in % by protocol; compare within a column only"
        found.append(Table(caption, cells.reset_index(drop=True), best.reset_index(drop=True), f"{dataset} {split}"))
    return found


def _columns(own: pd.DataFrame) -> pd.Series:
    """What a column is called: protocol, preset, size and point; the group too, where two groups would be called alike."""
    short = own.apply(lambda row: f"{row.protocol}/{row.preset}{_size(row)} {heading(row.point)}", axis=1)
    groups = own.groupby(short).group.transform("nunique")
    return short.where(groups == 1, short + " " + own.group)


def _size(row: pd.Series) -> str:
    return "" if pd.isna(row.image_size) else f" {int(row.image_size)} px"


def row_names(own: pd.DataFrame) -> pd.Series:
    """What a row is called. What differs in its names only is one row: by a name if one was given, else by its spec.

    Layer, positions and weights are added where two rows would be called alike, and the identity where that is not enough.
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
