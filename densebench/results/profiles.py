"""Profiles: every backbone in one row, with what each protocol makes of it on one data set."""

from __future__ import annotations

import pandas as pd

from densebench.results.coverage import WARNING
from densebench.results.score import SIGNS, heading, in_unit, sort_key
from densebench.results.tables import About, Table


def profiles(scores: pd.DataFrame) -> list[Table]:
    """Return one table for every data set on which several groups of records were made.

    Rows are backbones, those with the most columns first, then by their mean, in which values that are better when lower count as
    negative; columns are groups and points, means over seeds. A column says what it does not share with all others: its unit,
    that lower is better, and that a part of a split is scored.
    """
    tables = []
    shown = scores[scores.headline]
    for (dataset, split), rows in shown.groupby(["dataset", "split"], sort=True):
        if rows.group.nunique() < 2:
            continue
        alike = {name: rows[name].nunique() == 1 for name in ("unit", "direction", "partial")}
        rows = rows.assign(column=_columns(rows, alike), backbone=row_names(rows))
        values = rows.pivot_table(index="backbone", columns="column", values="value", aggfunc="mean")
        values = values[sorted(values.columns, key=dict(zip(rows.column, rows.apply(_order, axis=1), strict=True)).__getitem__)]
        columns = rows.drop_duplicates("column").set_index("column").loc[values.columns]
        gains = values * columns.direction.map(SIGNS)
        order = sorted(values.index, key=lambda name: (-gains.loc[name].count(), -gains.loc[name].mean(), name))
        values, gains = values.loc[order], gains.loc[order]
        cells = pd.DataFrame({name: _texts(values[name], digits) for name, digits in columns.digits.items()}, values.index)
        cells.insert(0, "backbone", cells.index)
        best = (gains == gains.max()).reindex(columns=cells.columns, fill_value=False)
        caption = _caption(f"{dataset} {split}", rows, alike)
        identities = rows.drop_duplicates("backbone").set_index("backbone").identity
        texts, marks = cells.reset_index(drop=True), best.reset_index(drop=True)
        about = _about(dataset, split, rows, alike)
        tables.append(Table(caption, texts, marks, f"{dataset} {split}", tuple(identities[order]), about=about))
    return tables


def _texts(values: pd.Series, digits: int) -> pd.Series:
    return values.map(lambda value: "" if pd.isna(value) else f"{value:.{digits}f}")


def _caption(where: str, rows: pd.DataFrame, alike: dict[str, bool]) -> str:
    """Return what all columns share: data set and split, the unit, that lower is better, that parts of the splits are scored."""
    first = rows.iloc[0]
    unit = in_unit(first.unit if alike["unit"] else "", "higher")
    lower = in_unit("", first.direction if alike["direction"] else "higher")
    text = f"profiles on {where}: headline{unit} by protocol{lower}; compare within a column only"
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
        "mind": "; ".join(["compare within a column only", *([WARNING] if rows.partial.all() else [])]),
    }
    protocols = tuple(dict.fromkeys(rows.protocol + "/" + rows.preset))
    stated = tuple((name, value) for name, value in facts.items() if value)
    return About(f"Profiles on {dataset} {split}", (str(dataset),), protocols, stated)


def _columns(rows: pd.DataFrame, alike: dict[str, bool]) -> pd.Series:
    """Return the name of a column: protocol, preset, size and point, and what it does not share with all others.

    The group is added where two groups would have the same name.
    """

    def name(row: pd.Series) -> str:
        size = "" if pd.isna(row.image_size) else f" {int(row.image_size)} px"
        suffix = in_unit("" if alike["unit"] else row.unit, "higher" if alike["direction"] else row.direction)
        suffix += f" ({row.coverage})" if row.partial and not alike["partial"] else ""
        return f"{row.protocol}/{row.preset}{size} {heading(row.point)}{suffix}"

    names = rows.apply(name, axis=1)
    groups = rows.groupby(names).group.transform("nunique")
    return names.where(groups == 1, names + " " + rows.group)


def row_names(rows: pd.DataFrame) -> pd.Series:
    """Return the name of a row: the given name, else the spec. Backbones that differ only in their names are one row.

    Layer, positions and weights are added where two rows would have the same name, and the identity where that is not enough.
    """
    key = rows.identity
    given = rows.assign(bare=rows["name"] == rows.spec).sort_values("bare", kind="stable").drop_duplicates("identity")
    name = key.map(given.set_index("identity")["name"])
    full = name + " (" + rows.layer.astype(str) + ", " + rows.pos_embed.astype(str) + ", " + rows.digest + ")"
    fullest = full.str.removesuffix(")") + ", " + key + ")"
    name = name.where(key.groupby(name).transform("nunique") == 1, full)
    return name.where(key.groupby(name).transform("nunique") == 1, fullest)


def _order(row: pd.Series) -> tuple[str, str, float, list[tuple[str, float, str]]]:
    """Return a key that sorts columns."""
    return row.protocol, row.preset, 0.0 if pd.isna(row.image_size) else float(row.image_size), sort_key(row.point)
