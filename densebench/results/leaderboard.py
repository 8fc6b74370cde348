"""The leaderboard: records become one tidy frame, and one table for every group of comparable records.

A record made with a limit or in a rehearsal never enters a table, nor does one whose run failed. Published numbers are tables of their own,
labelled as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from densebench.backbones import without_labels
from densebench.console import one_line
from densebench.errors import UserError
from densebench.files.atomic import digest
from densebench.options import SWITCH, check_types
from densebench.results import coverage
from densebench.results import published as papers
from densebench.results.choosing import Names, folders, of_backbones, of_groups, read
from densebench.results.costs import cells as cost_cells
from densebench.results.costs import costs_of, count_unknown, filled
from densebench.results.profiles import profiles
from densebench.results.ranking import ranks
from densebench.results.score import SIGNS, decode, heading, in_unit, point_of, sort_key, without_seed
from densebench.results.tables import Leaderboard, Table, metric_name, render

__all__ = ["leaderboard", "render"]

SIDES = ("image_size", "crop_size", "short_side")  # the settings that give the side of images, see `record_schema.Settings`


def leaderboard(
    results: str | Path | Sequence[str | Path] = "results",
    *,
    published: bool = False,
    dataset: Names = None,
    protocol: Names = None,
    backbone: Names = None,
    costs: bool = False,
) -> Leaderboard:
    """Return the tables of the records of a results folder, or of several, whose records are merged.

        print(densebench.leaderboard(["results", "colleague/results"], dataset="voc", backbone=["*ViT-S*", "raw pixels"]))

    published: add the papers' numbers. dataset, protocol, backbone: show only these, each one name or several, as written or
    as patterns of the shell (`vit*`). A protocol may be named with its preset, `kmeans/croc`; a backbone is named by its
    name in tables or by its spec. Data sets and protocols choose whole tables. Backbones choose rows: ranks, best marks and
    the order stay those of the whole table, and captions say "3 of 9 backbones shown".
    costs: add columns of the costs of each record and of its device, blank where its last run scored only a part of its points.

    Raises UserError where there is no record that may stand in a table, and for a name that no record has.
    """
    check_types(SWITCH, published=published, costs=costs)
    where = folders(results)
    scores = frame(read(where), costs=costs)
    if scores.empty or not scores.headline.any():
        names = " and ".join(map(str, where))
        hold = "hold" if len(where) > 1 else "holds"
        raise UserError(f"{names} {hold} no record of a whole run; `densebench eval` makes them (runs with --limit stay out)")
    scores = of_groups(scores, dataset, protocol)
    if costs:
        count_unknown(scores)
    groups = [group for _, group in scores.groupby("group", sort=False) if group.headline.any()]
    groups.sort(key=lambda group: tuple(group.iloc[0][["protocol", "preset", "dataset", "group"]]))
    board = Leaderboard(scores, [table(group, costs=costs) for group in groups], profiles(scores))
    if published:
        numbers = papers.beside(scores)
        board = replace(board, published=numbers, published_tables=papers.tables(numbers))
    return board if backbone is None else board.only(of_backbones(scores, backbone))


def frame(records: list[dict[str, Any]], *, costs: bool = False) -> pd.DataFrame:
    """Return one row for each score of the records without a limit that are of no rehearsal: what was measured, of what, at which point, how sure it is.

    Axes are columns; `point` has them all but the seed, over which tables average. Every text is one line, whatever the record
    holds. costs: add the columns `costs.COLUMNS`, with the costs of the whole record in each of its rows.
    """
    whole = (record for record in records if record["dataset"]["limit"] is None and not record["run"].get("rehearsal"))
    return pd.DataFrame([row for record in whole for row in rows_of(record, costs=costs)])


def rows_of(record: dict[str, Any], *, costs: bool = False) -> list[dict[str, Any]]:
    """Return the rows of `frame` that a record makes, whether it has a limit or not."""
    backbone, protocol, dataset = record["backbone"], record["protocol"], record["dataset"]
    headline = protocol["headline"]
    rows = []
    for score in record["scores"]:
        low, high = score.get("ci95") or (None, None)
        axes = dict(point_of(score))
        row = {
            "group": record["group"], "record": record["id"], "status": record["status"],
            "protocol": protocol["name"], "preset": protocol["preset"], "version": protocol["version"],
            "image_size": _side(protocol["settings"]),
            "remark": _remark(protocol["settings"]),
            "dataset": dataset["name"], "split": dataset["split"], "images": dataset["images"],
            "official_images": dataset.get("official_images"), "partial": coverage.partial(dataset),
            "name": backbone.get("name", backbone["spec"]),
            **{name: backbone.get(name) for name in ("spec", "arch", "dim", "stride", "layer", "pos_embed", "params")},
            "digest": backbone["digest"][:8], "identity": digest(without_labels(backbone), 8),
            **{name: score[name] for name in ("metric", "variant", "value", "unit", "direction", "digits")},
            "fraction": None, "seed": None, "low": low, "high": high,
            "headline": (score["metric"], score["variant"]) == (headline["metric"], headline["variant"]),
            "bootstrap": score.get("bootstrap", ""),
            "per_class": {one_line(name): value for name, value in (score.get("per_class") or {}).items()},
            "point": without_seed(tuple(axes.items())), "coverage": coverage.images(dataset),
            **(costs_of(record) if costs else {}),
        }  # fmt: skip
        # An axis with the name of a column, such as group, must not move the row into another table.
        row |= {name: value for name, value in axes.items() if name in ("fraction", "seed") or name not in row}
        rows.append({one_line(key): one_line(value) if isinstance(value, str) else value for key, value in row.items()})
    return rows


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
    replicates = {record: _replicates(rows[record][rows[record].column == decisive]) for record in rows}
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
    return Table(_caption(group, shown), texts, best, str(group.iloc[0].group), identities)


def _labels(row: pd.Series, shown: pd.DataFrame) -> dict[str, str]:
    """Return the cells that say which backbone a row is of: as many as it takes to tell the rows of a table apart."""
    labels = {"backbone": row["name"], "width": str(row.dim), "stride": str(row.stride)}
    labels |= {"layer": str(row.layer)} if (shown.layer != "last").any() else {}
    labels |= {"positions": str(row.pos_embed)} if (shown.pos_embed != "none").any() else {}
    each = shown.drop_duplicates("record")
    labels |= {"weights": row.digest} if each.duplicated(["name", "layer", "pos_embed"]).any() else {}
    twins = each.duplicated(["name", "layer", "pos_embed", "digest"]).any()  # such as one file before and after an edit
    return labels | ({"identity": row.identity} if twins else {})


def _replicates(rows: pd.DataFrame) -> np.ndarray | None:
    """Return bootstrap values averaged over seeds; None where a score has none."""
    if rows.empty or not rows.bootstrap.all():
        return None
    return np.mean([decode(text) for text in rows.bootstrap], axis=0)


def interval(rows: pd.DataFrame) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over seeds of a record's rows at one point; None where a score has no bootstrap."""
    return _bounds(_replicates(rows))


def _bounds(replicates: np.ndarray | None) -> tuple[float, float] | None:
    if replicates is None or np.isnan(replicates).all():
        return None
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    return float(low), float(high)


def _interval(replicates: np.ndarray | None, digits: int) -> str:
    bounds = _bounds(replicates)
    return "" if bounds is None else f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def _cell(mean: float, spread: float, digits: int) -> str:
    if pd.isna(mean):
        return ""
    return f"{mean:.{digits}f}" if pd.isna(spread) else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _caption(group: pd.DataFrame, shown: pd.DataFrame) -> str:
    row, score = group.iloc[0], shown.iloc[0]
    sizes = shown.groupby(["record", "column"]).size()
    few, many = sizes[sizes > 1].min(), sizes.max()
    parts = any(name == "fraction" and value != 1 for point in shown.point for name, value in point)
    what = "subsets" if parts else "seeds"
    counted = f"{many}" if many == 1 or few == many else f"{few} to {many}"
    size = "native" if row.image_size is None or pd.isna(row.image_size) else f"{int(row.image_size)} px"
    return (
        f"{row.protocol}/{row.preset} v{row.version} on {row.dataset} {row.split} ({row.coverage}), {size}: "
        f"{score.variant} {metric_name(score.metric)}{in_unit(score.unit, score.direction)}, "
        f"{f'± standard deviation over {counted} {what}, ' if many > 1 else ''}"
        f"{f'{row.remark}, ' if row.remark else ''}group {row.group}"
        f"{f', {coverage.WARNING}' if row.partial else ''}"
    )


def _side(settings: dict[str, Any]) -> float | None:
    """Return the side in px of the images that a protocol sees; None where it is native, or not a number."""
    side = next((settings[name] for name in SIDES if name in settings), None)
    return side if isinstance(side, int | float) and not isinstance(side, bool) else None


def _remark(settings: dict[str, Any]) -> str:
    """Return the remark of a caption: that runs were cut short, and what was chosen on the scored split or with labels."""
    remarks = []
    if not settings.get("comparable", True):
        remarks.append(f"{settings.get('iterations')} iterations (not comparable with published runs)")
    if isinstance(count := settings.get("validations"), int) and count > 1:
        remarks.append(f"the best of {count} validations on the scored split")
    if (chosen := settings.get("chosen_with_labels")) is not None:
        remarks.append(f"{', '.join(chosen) or 'nothing'} chosen with labels")
    return ", ".join(remarks)
