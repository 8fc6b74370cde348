"""The leaderboard: records become one tidy frame, and one table for every group of comparable records.

A record made with a limit or in a rehearsal never enters a table, nor does one whose run failed. Published numbers are tables of
their own, labelled as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from densebench.results.baselines import MOST, in_words
from densebench.results.choosing import Names, folders, of_backbones, of_groups, read
from densebench.results.commands import command_of, remark_on
from densebench.results.costs import columns as cost_columns
from densebench.results.costs import count_unknown
from densebench.results.frame import frame, rows_of
from densebench.results.naming import labelled, part_of
from densebench.results.profiles import profiles
from densebench.results.ranking import best_of, bounds, ranks, replicates_of
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

    Of all tables, a backbone has one name, see `naming.labelled`.

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
    scores = of_groups(scores_of(records, where, costs=costs), dataset, protocol)
    if costs:
        count_unknown(scores)
    board = of_scores(scores, {record["id"]: record for record in records}, where, costs=costs)
    board = beside_published(board, published) if published else board
    return board if backbone is None else board.only(of_backbones(scores, backbone))


def scores_of(records: list[dict[str, Any]], where: Sequence[Path], *, costs: bool = False) -> pd.DataFrame:
    """Return the frame of scores of the records of folders, with labels. Raises UserError where none may stand in a table."""
    scores = frame(records, costs=costs)
    if scores.empty or not scores.headline.any():
        names = " and ".join(map(str, where))
        hold = "hold" if len(where) > 1 else "holds"
        raise UserError(f"{names} {hold} no record of a whole run; `densebench eval` makes them (runs with --limit stay out)")
    return labelled(scores)


def of_scores(
    scores: pd.DataFrame, records: Mapping[str, dict[str, Any]], where: Sequence[Path] = (), *, costs: bool = False
) -> Leaderboard:
    """Return the tables of a frame of scores. records: by their ids. where: the folders that they lie in."""
    groups = [group for _, group in scores.groupby("group", sort=False) if group.headline.any()]
    groups.sort(key=lambda group: tuple(group.iloc[0][["protocol", "preset", "dataset", "group"]]))
    tables = [table(group, costs=costs, records=records) for group in groups]
    return Leaderboard(scores, tables, profiles(scores), folders=tuple(where))


def beside_published(board: Leaderboard, published: bool | str | Path) -> Leaderboard:
    """Return the tables with the papers' numbers for the same protocols and data sets, those of a CSV file too."""
    files = [] if isinstance(published, bool) else [published]
    numbers = papers.beside(board.scores, papers.load_published(*files))
    return replace(board, published=numbers, published_tables=papers.tables(numbers))


def _chosen(records: list[dict[str, Any]], dataset: Names, protocol: Names, backbone: Names) -> list[dict[str, Any]]:
    """Return the records of data sets, protocols and backbones that are named, with a limit or not."""
    scores = pd.DataFrame([row for record in records for row in rows_of(record)])
    if scores.empty:
        return []
    scores = labelled(of_groups(scores, dataset, protocol))
    if backbone is not None:
        scores = scores[scores.identity.isin(of_backbones(scores, backbone))]
    return [record for record in records if record["id"] in set(scores.record)]


def table(group: pd.DataFrame, *, costs: bool = False, records: Mapping[str, dict[str, Any]] | None = None) -> Table:
    """Return the headline of one group: rows are backbones, columns are points (1/128 before 1/1), then costs if wanted.

    Rows are sorted by rank and then by value, as in public arenas, the best first by the metric's direction; so a value may
    stand below a worse one that is less sure.
    Ranks go by the point that the protocol names, such as a threshold; else by the last column that every backbone fills: the
    largest memory. Where there is none they go by the last column, and a backbone that lacks it has no rank.
    records: those of the group at least, by their ids: they hold the commands that make them again.
    """
    shown = labelled(group[group.headline]).assign(column=lambda rows: rows.point.map(heading))
    first = shown.iloc[0]
    digits = int(first.digits)
    columns = list(shown.sort_values("point", key=lambda points: points.map(sort_key)).column.unique())
    cell = shown.pivot_table(index="record", columns="column", values="value", aggfunc=["mean", "std"], dropna=False)
    means, spread = cell["mean"][columns], cell["std"][columns]
    decisive = _decisive(shown, columns, means)
    of_decisive = dict(iter(shown[shown.column == decisive].groupby("record")))
    replicates = {record: replicates_of(of_decisive[record]) if record in of_decisive else None for record in means.index}
    rank, order = _ranked(means[decisive], replicates, first.direction)
    rows = shown.drop_duplicates("record").set_index("record", drop=False).loc[order]
    ends = [bounds(replicates[record]) for record in order]
    means, spread = means.loc[order], spread.loc[order]
    texts = _labels(rows, shown).assign(rank=[str(rank.get(record, "")) for record in order])
    texts = texts[["rank", *texts.columns.drop("rank")]]
    texts = texts.assign(**{name: _cells(means[name], spread[name], digits) for name in columns})
    texts[f"95 % at {decisive}"] = ["" if each is None else f"{each[0]:.{digits}f} to {each[1]:.{digits}f}" for each in ends]
    numbers = pd.concat([rows[["dim", "stride"]].set_axis(["width", "stride"], axis=1), means], axis=1)
    numbers = numbers.assign(rank=[rank.get(record) for record in order])
    if costs:
        of_costs, behind = cost_columns(rows)
        texts, numbers = texts.join(of_costs), numbers.join(behind)
    best = best_of(means, first.direction, digits)
    beside = _baselines(group, columns if len(columns) <= MOST else [decisive], digits)
    known = [each or (float("nan"), float("nan")) for each in ends]
    intervals = pd.DataFrame(known, columns=["low", "high"]).assign(value=means[decisive].to_numpy()) if any(ends) else None
    return Table(
        _caption(group, shown, beside), _plain(texts), _plain(best.reindex(columns=list(texts), fill_value=False)),
        str(group.iloc[0].group), tuple(rows.identity), records=tuple(order),
        commands=tuple(command_of(records[record]) for record in order) if records else (),
        remarks=tuple(remark_on(records[record]) for record in order) if records else (),
        values=_plain(numbers.reindex(columns=list(texts)).astype(float)), intervals=intervals,
        about=_about(group, shown, beside),
    )  # fmt: skip


def _ranked(values: pd.Series, replicates: Mapping[str, np.ndarray | None], direction: str) -> tuple[dict[str, int], list[str]]:
    """Return the rank of each record that has a value, and all records in the order of their ranks, then of their values."""
    known = values.dropna()
    rank = dict(zip(known.index, ranks(known.tolist(), [replicates[record] for record in known.index], direction), strict=True))
    return rank, sorted(values.index, key=lambda record: (rank.get(record, len(values) + 1), -SIGNS[direction] * values[record]))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index(drop=True).rename_axis(columns=None)


def _decisive(shown: pd.DataFrame, columns: Sequence[str], means: pd.DataFrame) -> str:
    """Return the column that ranks go by, of those that the protocol names, or of all where it names none that is there."""
    named = {*shown[shown.decides].column}
    filled = [name for name in columns if means[name].notna().all()]
    return next((name for name in (*reversed(filled),) if name in named), filled[-1] if filled else columns[-1])


def _labels(rows: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that say which backbone each row is of."""
    labels = pd.DataFrame({"backbone": rows.label, "width": rows.dim.map(str), "stride": rows.stride.map(str)})
    if (shown.layer != "last").any():
        labels["layer"] = rows.layer.map(str)
    if (shown.pos_embed != "none").any():
        labels["positions"] = rows.pos_embed.map(str)
    for column, title in (("debias", "debiased by"), ("upsample", "upsampled by")):
        if column in shown and shown[column].notna().any():
            labels[title] = rows[column].map(part_of)
    return labels


def _cells(means: pd.Series, spreads: pd.Series, digits: int) -> list[str]:
    """Return the texts of a column: mean ± standard deviation where there is one, blank where nothing was measured."""
    texts = []
    for mean, spread in zip(means, spreads, strict=True):
        text = "" if pd.isna(mean) else f"{mean:.{digits}f}"
        texts.append(text if pd.isna(mean) or pd.isna(spread) else f"{text} ± {spread:.{digits}f}")
    return texts


def _baselines(group: pd.DataFrame, columns: Sequence[str], digits: int) -> str:
    """Return what guesses without features reach in some columns, see `baselines.in_words`; "" where there is none."""
    rows = group[group.baseline]
    by_record = rows.assign(column=rows.point.map(heading)).groupby(["variant", "column", "record"], sort=False).value.mean()
    found: dict[str, dict[str, list[float]]] = {}
    for (name, column, _), value in by_record.items():
        found.setdefault(name, {}).setdefault(column, []).append(value)
    values = {name: [of_columns.get(column, []) for column in columns] for name, of_columns in found.items()}
    return in_words(values, digits, columns)


def _caption(group: pd.DataFrame, shown: pd.DataFrame, beside: str = "") -> str:
    row, score, spread = group.iloc[0], shown.iloc[0], _spread(shown)
    return (
        f"{row.protocol}/{row.preset} v{row.version} on {row.dataset} {row.split} ({row.coverage}), {_size(row)}: "
        f"{score.variant} {metric_name(score.metric)}{in_unit(score.unit, score.direction)}, "
        f"{f'± {spread}, ' if spread else ''}{f'{beside}, ' if beside else ''}"
        f"{f'{row.remark}, ' if row.remark else ''}group {row.group}"
        f"{f', {coverage.WARNING}' if row.partial else ''}"
    )


def _about(group: pd.DataFrame, shown: pd.DataFrame, beside: str = "") -> About:
    """Return what the caption says, in parts."""
    row, score = group.iloc[0], shown.iloc[0]
    facts = {
        "protocol": f"{row.protocol}/{row.preset}, version {row.version}",
        "data set": f"{row.dataset} {row.split}",
        "images": row.coverage,
        "size": _size(row),
        "score": f"{score.variant} {metric_name(score.metric)}{in_unit(score.unit, score.direction)}",
        "±": _spread(shown),
        "without features": beside.partition(": ")[2],
        "note": "; ".join(filter(None, (row.remark, coverage.WARNING if row.partial else ""))),
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
