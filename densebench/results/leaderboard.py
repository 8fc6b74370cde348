"""The leaderboard: records become one tidy frame, and one table for every group of comparable records.

A record made with a limit or in a rehearsal never enters a table, nor does one whose run failed. Published numbers are tables of
their own, labelled as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from densebench.errors import UserError
from densebench.options import PATH, SWITCH, check_types
from densebench.results import coverage
from densebench.results import published as papers
from densebench.results.against import against as set_against
from densebench.results.choosing import Names, folders, of_backbones, of_groups, read
from densebench.results.costs import cells as cost_cells
from densebench.results.costs import count_unknown, filled
from densebench.results.frame import frame, rows_of
from densebench.results.profiles import profiles
from densebench.results.ranking import bounds, ranks, replicates_of
from densebench.results.score import SIGNS, heading, in_unit, sort_key
from densebench.results.tables import About, Leaderboard, Table, metric_name, render

__all__ = ["leaderboard", "render"]


def leaderboard(
    results: str | Path | Sequence[str | Path] = "results",
    *,
    published: bool | str | Path = False,
    against: str | None = None,
    dataset: Names = None,
    protocol: Names = None,
    backbone: Names = None,
    costs: bool = False,
) -> Leaderboard:
    """Return the tables of the records of a results folder, or of several, whose records are merged.

        print(densebench.leaderboard(["results", "colleague/results"], dataset="voc", backbone=["*ViT-S*", "raw pixels"]))

    published: add the papers' numbers; the path of a CSV file of the columns of published.csv adds those of that file too.
    against: instead of these tables, those of a paper with what was measured beside each number, see `against.against`.
    dataset, protocol, backbone: show only these, each one name or several, as written or as patterns of the shell (`vit*`). A
    protocol may be named with its preset, `kmeans/croc`; a backbone is named by its name in tables or by its spec. Data sets and
    protocols choose whole tables. Backbones choose rows: ranks, best marks and
    the order stay those of the whole table, and captions say "3 of 9 backbones shown".
    costs: add columns of the costs of each record and of its device, blank where its last run scored only a part of its points.

    Raises UserError where there is no record that may stand in a table, and for a name that no record has.
    """
    check_types(SWITCH, costs=costs)
    check_types((*SWITCH, *PATH), published=published)
    file = None if isinstance(published, bool) else published
    where = folders(results)
    records = read(where)
    if against is not None:
        if costs:
            raise UserError("costs have no column in a paper's table; leave out costs or against")
        return set_against(_chosen(records, dataset, protocol, backbone), against, published=file)
    scores = frame(records, costs=costs)
    if scores.empty or not scores.headline.any():
        names = " and ".join(map(str, where))
        hold = "hold" if len(where) > 1 else "holds"
        raise UserError(f"{names} {hold} no record of a whole run; `densebench eval` makes them (runs with --limit stay out)")
    scores = of_groups(scores, dataset, protocol)
    if costs:
        count_unknown(scores)
    groups = [group for _, group in scores.groupby("group", sort=False) if group.headline.any()]
    groups.sort(key=lambda group: tuple(group.iloc[0][["protocol", "preset", "dataset", "group"]]))
    board = Leaderboard(scores, [table(group, costs=costs) for group in groups], profiles(scores), folders=tuple(where))
    if published:
        numbers = papers.beside(scores, papers.load_published(*([] if file is None else [file])))
        board = replace(board, published=numbers, published_tables=papers.tables(numbers))
    return board if backbone is None else board.only(of_backbones(scores, backbone))


def _chosen(records: list[dict[str, Any]], dataset: Names, protocol: Names, backbone: Names) -> list[dict[str, Any]]:
    """Return the records of data sets, protocols and backbones that are named, with a limit or not."""
    scores = pd.DataFrame([row for record in records for row in rows_of(record)])
    if scores.empty:
        return []
    scores = of_groups(scores, dataset, protocol)
    if backbone is not None:
        scores = scores[scores.identity.isin(of_backbones(scores, backbone))]
    return [record for record in records if record["id"] in set(scores.record)]


def table(group: pd.DataFrame, *, costs: bool = False) -> Table:
    """Return the headline of one group: rows are backbones, columns are points (1/128 before 1/1), then costs if wanted.

    Rows are sorted by rank and then by value, as in public arenas, the best first by the metric's direction; so a value may
    stand below a worse one that is less sure.
    Ranks go by the last column that every backbone fills: the largest memory. Where there is none they go by the last column,
    and a backbone that lacks it has no rank.
    """
    shown = group[group.headline].assign(column=lambda rows: rows.point.map(heading))
    first = shown.iloc[0]
    sign, digits = SIGNS[first.direction], int(first.digits)
    columns = list(shown.sort_values("point", key=lambda points: points.map(sort_key)).column.unique())
    cell = shown.pivot_table(index="record", columns="column", values="value", aggfunc=["mean", "std"], dropna=False)
    means, spread = cell["mean"][columns], cell["std"][columns]
    decisive = next((name for name in reversed(columns) if means[name].notna().all()), columns[-1])
    rows = dict(iter(shown.groupby("record")))
    replicates = {record: replicates_of(rows[record][rows[record].column == decisive]) for record in rows}
    ranked = means.index[means[decisive].notna()]
    placings = ranks(means.loc[ranked, decisive].tolist(), [replicates[record] for record in ranked], first.direction)
    rank = dict(zip(ranked, placings, strict=True))
    order = sorted(means.index, key=lambda record: (rank.get(record, len(means) + 1), -sign * means.loc[record, decisive]))
    cells = [
        {"rank": str(rank.get(record, "")), **_labels(rows[record].iloc[0], shown)}
        | {column: _cell(means.loc[record, column], spread.loc[record, column], digits) for column in columns}
        | {f"95 % at {decisive}": _interval(replicates[record], digits)}
        for record in order
    ]
    best = (means == (sign * means).max() * sign).loc[order].reset_index(drop=True)
    texts = pd.DataFrame(cells)
    if costs:
        texts = texts.join(filled(pd.DataFrame([cost_cells(rows[record].iloc[0]) for record in order])))
    best = best.reindex(columns=list(texts), fill_value=False)
    identities = tuple(rows[record].iloc[0].identity for record in order)
    return Table(_caption(group, shown), texts, best, str(group.iloc[0].group), identities, about=_about(group, shown))


def _labels(row: pd.Series, shown: pd.DataFrame) -> dict[str, str]:
    """Return the cells that say which backbone a row is of: as many as it takes to tell the rows of a table apart."""
    labels = {"backbone": row["name"], "width": str(row.dim), "stride": str(row.stride)}
    labels |= {"layer": str(row.layer)} if (shown.layer != "last").any() else {}
    labels |= {"positions": str(row.pos_embed)} if (shown.pos_embed != "none").any() else {}
    each = shown.drop_duplicates("record")
    labels |= {"weights": row.digest} if each.duplicated(["name", "layer", "pos_embed"]).any() else {}
    twins = each.duplicated(["name", "layer", "pos_embed", "digest"]).any()  # such as one file before and after an edit
    return labels | ({"identity": row.identity} if twins else {})


def _interval(replicates: np.ndarray | None, digits: int) -> str:
    ends = bounds(replicates)
    return "" if ends is None else f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def _cell(mean: float, spread: float, digits: int) -> str:
    if pd.isna(mean):
        return ""
    return f"{mean:.{digits}f}" if pd.isna(spread) else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _caption(group: pd.DataFrame, shown: pd.DataFrame) -> str:
    row, score, spread = group.iloc[0], shown.iloc[0], _spread(shown)
    return (
        f"{row.protocol}/{row.preset} v{row.version} on {row.dataset} {row.split} ({row.coverage}), {_size(row)}: "
        f"{score.variant} {metric_name(score.metric)}{in_unit(score.unit, score.direction)}, "
        f"{f'± {spread}, ' if spread else ''}"
        f"{f'{row.remark}, ' if row.remark else ''}group {row.group}"
        f"{f', {coverage.WARNING}' if row.partial else ''}"
    )


def _about(group: pd.DataFrame, shown: pd.DataFrame) -> About:
    """Return what the caption says, in parts."""
    row, score = group.iloc[0], shown.iloc[0]
    facts = {
        "protocol": f"{row.protocol}/{row.preset}, version {row.version}",
        "data set": f"{row.dataset} {row.split}",
        "images": row.coverage,
        "size": _size(row),
        "score": f"{score.variant} {metric_name(score.metric)}{in_unit(score.unit, score.direction)}",
        "±": _spread(shown),
        "mind": "; ".join(filter(None, (row.remark, coverage.WARNING if row.partial else ""))),
        "group": str(row.group),
    }
    title = f"{row.protocol}/{row.preset} on {row.dataset} {row.split}, {_size(row)}"
    stated = tuple((name, value) for name, value in facts.items() if value)
    return About(title, (str(row.dataset),), (f"{row.protocol}/{row.preset}",), stated)


def _size(row: pd.Series) -> str:
    return "native" if row.image_size is None or pd.isna(row.image_size) else f"{int(row.image_size)} px"


def _spread(shown: pd.DataFrame) -> str:
    """Return what is behind ±: "standard deviation over 5 subsets"; "" where nothing is averaged."""
    sizes = shown.groupby(["record", "column"]).size()
    few, many = sizes[sizes > 1].min(), sizes.max()
    parts = any(name == "fraction" and value != 1 for point in shown.point for name, value in point)
    counted = f"{many}" if few == many else f"{few} to {many}"
    return f"standard deviation over {counted} {'subsets' if parts else 'seeds'}" if many > 1 else ""
