"""The leaderboard: records become one tidy frame, and one table for every group of comparable records.

A record made with a limit never enters a table, nor does one whose run failed. Published numbers are tables of their own,
labelled as such.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from densebench.backbones import without_labels
from densebench.console import notice, one_line
from densebench.errors import UserError
from densebench.files.atomic import digest
from densebench.results import coverage
from densebench.results.profiles import profiles
from densebench.results.published import load_published
from densebench.results.ranking import SIGNS, ranks
from densebench.results.record_keeping import obsolete, scan
from densebench.results.score import decode, heading, in_unit, place, point_of, without_seed
from densebench.results.tables import render

__all__ = ["Leaderboard", "Table", "leaderboard", "render"]

PUBLISHED_AS = {
    **dict.fromkeys(("incontext/hummingbird", "incontext/open-hummingbird", "incontext/neco"), "incontext-hummingbird"),
    "incontext/cribo": "knn-cribo",
    "incontext/dip": "incontext-dip",
    "kmeans/croc": "kmeans-croc",
    "kmeans/neco": "overcluster-neco",
    "linear/neco": "linear-neco",
    "linear/croc": "linear-croc",
    "linear/mmseg": "linear-mmseg",
    "segmenter/mmseg": "segmenter-mmseg",
    **dict.fromkeys(("unsupervised/leopart", "unsupervised/leopart-b8", "unsupervised/neco"), "unsupervised-cbfe-cd"),
    "vos/dino": "vos-davis",
}
SIZES = ("image_size", "crop_size", "short_side")  # what protocols call the side of the images that they see
NAMES = {"miou": "mIoU", "jf_mean": "J&F", "j_mean": "J", "f_mean": "F", "ap": "AP"}
LAYERS = {"linear-mmseg": "linear-mmseg-4layers"}  # the same protocol on several layers


@dataclass(frozen=True)
class Table:
    """Texts to show, one row for each backbone: `cells` with a column for each point, `best` marks the best value of each column.

    of: the group of records that a table shows, or the data set and split that a profile is of.
    """

    caption: str
    cells: pd.DataFrame
    best: pd.DataFrame
    of: str = ""

    def rows(self) -> list[tuple[list[str], list[bool]]]:
        """Cells and marks, row by row."""
        return list(zip(self.cells.to_numpy().tolist(), self.best.to_numpy().tolist(), strict=True))


@dataclass(frozen=True)
class Leaderboard:
    """`scores` has one row a score of every record that may stand in a table; `published` one row a number of a paper."""

    scores: pd.DataFrame
    tables: list[Table]
    profiles: list[Table] = field(default_factory=list)
    published: pd.DataFrame = field(default_factory=pd.DataFrame)
    published_tables: list[Table] = field(default_factory=list)


def leaderboard(results: Path = Path("results"), *, published: bool = False) -> Leaderboard:
    """Read the records of a results folder. Raises UserError where there is none that may stand in a table."""
    scores = frame(_read(results))
    if scores.empty or not scores.headline.any():
        raise UserError(f"{results} holds no record of a whole run; `densebench eval` makes them (runs with --limit stay out)")
    groups = [group for _, group in scores.groupby("group", sort=False) if group.headline.any()]
    groups.sort(key=lambda group: tuple(group.iloc[0][["protocol", "preset", "dataset", "group"]]))
    board = Leaderboard(scores, [table(group) for group in groups], profiles(scores))
    if not published:
        return board
    numbers = _published(scores)
    return Leaderboard(board.scores, board.tables, board.profiles, numbers, published_tables(numbers))


def _published(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the papers' numbers for the protocols and data sets that were measured; none beside a group of a partial split.

    One line says what is left out for that reason, and where nothing is published.
    """
    pairs: dict[tuple[str, str], bool] = {}  # published protocol and data set -> whether a group of them is partial
    columns = ["protocol", "preset", "dataset", "layer", "partial"]
    for protocol, preset, dataset, layer, partial in scores[columns].drop_duplicates().itertuples(index=False):
        name = PUBLISHED_AS.get(f"{protocol}/{preset}", "")
        several = preset == "mmseg" and "," in str(layer)
        for one in filter(None, (name, LAYERS.get(name) if several else None)):
            pairs[one, dataset] = pairs.get((one, dataset), False) or partial
    numbers = load_published()
    numbers = numbers[numbers.protocol.isin({name for name, _ in pairs}) & numbers.dataset.isin(scores.dataset)]
    # A protocol that was not run on a data set would stand beside those that were, so a part of the data set forbids it too.
    parts = set(scores[scores.partial].dataset)
    stays = [not pairs.get((one, data), data in parts) for one, data in zip(numbers.protocol, numbers.dataset, strict=True)]
    names = ", ".join((scores.protocol + "/" + scores.preset).unique())
    if not all(stays):
        said = (scores.dataset + " (" + scores.coverage + ")")[scores.partial].unique()
        notice(f"no published numbers stand beside a part of a split: {', '.join(said)}")
    elif numbers.empty:
        notice(f"no published number goes with {names} on {', '.join(scores.dataset.unique())}")
    return numbers.loc[stays]


def _read(results: Path) -> list[dict[str, Any]]:
    """Return the records that did not fail. One line says how many did, without those that cannot be made again."""
    found = scan(results)
    for problem in found.broken.values():
        notice(f"left out: {problem}")
    failed = [record for record in found.records if record["status"] == "failed"]
    if wanted := sum(record["dataset"]["limit"] is None and not obsolete(record) for record in failed):
        where = "" if results == Path("results") else f" --results {shlex.quote(str(results))}"
        runs = f"{wanted} failed runs are" if wanted > 1 else "1 failed run is"
        notice(f"{runs} left out: `densebench records ls --status failed{where}`")
    return sorted((record for record in found.records if record["status"] != "failed"), key=lambda record: record["id"])


def frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a score of the records without a limit: what was measured, of what, at which point, and how sure it is.

    Axes are columns; `point` has them all but the seed, over which tables average. Every text is one line, whatever the record
    holds.
    """
    rows = []
    for record in found:
        backbone, protocol, dataset = record["backbone"], record["protocol"], record["dataset"]
        if dataset["limit"] is not None:
            continue
        headline = protocol["headline"]
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
            }  # fmt: skip
            # An axis with the name of a column, such as group, must not move the row into another table.
            row |= {name: value for name, value in axes.items() if name in ("fraction", "seed") or name not in row}
            rows.append({one_line(key): one_line(value) if isinstance(value, str) else value for key, value in row.items()})
    return pd.DataFrame(rows)


def table(group: pd.DataFrame) -> Table:
    """Return the headline of one group: rows are backbones, columns are points, 1/128 before 1/1.

    Rows are sorted by rank and then by value, as in public arenas, the best first by the metric's direction; so a value may
    stand below a worse one that is less sure.
    Ranks go by the last column that every backbone fills: the largest memory. Where there is none they go by the last column,
    and a backbone that lacks it has no rank.
    """
    shown = group[group.headline].assign(column=lambda own: own.point.map(heading))
    sign, digits = SIGNS[shown.iloc[0].direction], int(shown.iloc[0].digits)
    columns = list(shown.sort_values("point", key=lambda points: points.map(place)).column.unique())
    cell = shown.pivot_table(index="record", columns="column", values="value", aggfunc=["mean", "std"], dropna=False)
    means, spread = cell["mean"][columns], cell["std"][columns]
    decisive = next((name for name in reversed(columns) if means[name].notna().all()), columns[-1])
    own = dict(iter(shown.groupby("record")))
    replicates = {name: _replicates(rows[rows.column == decisive]) for name, rows in own.items()}
    ranked = means.index[means[decisive].notna()]
    placed = ranks(means.loc[ranked, decisive].tolist(), [replicates[name] for name in ranked], shown.iloc[0].direction)
    rank = dict(zip(ranked, placed, strict=True))
    order = sorted(means.index, key=lambda name: (rank.get(name, len(means) + 1), -sign * means.loc[name, decisive]))
    cells = [
        {"rank": str(rank.get(name, "")), **_labels(own[name].iloc[0], shown)}
        | {column: _cell(means.loc[name, column], spread.loc[name, column], digits) for column in columns}
        | {f"95 % at {decisive}": _interval(replicates[name], digits)}
        for name in order
    ]
    best = (
        (means == (sign * means).max() * sign).loc[order].reset_index(drop=True).reindex(columns=list(cells[0]), fill_value=False)
    )
    return Table(_caption(group, shown), pd.DataFrame(cells), best, str(group.iloc[0].group))


def _labels(own: pd.Series, shown: pd.DataFrame) -> dict[str, str]:
    labels = {"backbone": own["name"], "width": str(own.dim), "stride": str(own.stride)}
    labels |= {"layer": str(own.layer)} if (shown.layer != "last").any() else {}
    labels |= {"positions": str(own.pos_embed)} if (shown.pos_embed != "none").any() else {}
    each = shown.drop_duplicates("record")
    labels |= {"weights": own.digest} if each.duplicated(["name", "layer", "pos_embed"]).any() else {}
    twins = each.duplicated(["name", "layer", "pos_embed", "digest"]).any()  # such as one file before and after an edit
    return labels | ({"identity": own.identity} if twins else {})


def _replicates(own: pd.DataFrame) -> np.ndarray | None:
    """Bootstrap values averaged over seeds."""
    if own.empty or not own.bootstrap.all():
        return None
    return np.mean([decode(text) for text in own.bootstrap], axis=0)


def _interval(replicates: np.ndarray | None, digits: int) -> str:
    if replicates is None or np.isnan(replicates).all():
        return ""
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _cell(mean: float, spread: float, digits: int) -> str:
    if pd.isna(mean):
        return ""
    return f"{mean:.{digits}f}" if pd.isna(spread) else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _caption(group: pd.DataFrame, shown: pd.DataFrame) -> str:
    one, score = group.iloc[0], shown.iloc[0]
    sizes = shown.groupby(["record", "column"]).size()
    few, many = sizes[sizes > 1].min(), sizes.max()
    parts = any(name == "fraction" and value != 1 for point in shown.point for name, value in point)
    what = "subsets" if parts else "seeds"
    counted = f"{many}" if many == 1 or few == many else f"{few} to {many}"
    size = "native" if one.image_size is None or pd.isna(one.image_size) else f"{int(one.image_size)} px"
    return (
        f"{one.protocol}/{one.preset} v{one.version} on {one.dataset} {one.split} ({one.coverage}), {size}: "
        f"{score.variant} {_name(score.metric)}{in_unit(score.unit, score.direction)}, "
        f"{f'± standard deviation over {counted} {what}, ' if many > 1 else ''}"
        f"{f'{one.remark}, ' if one.remark else ''}group {one.group}"
        f"{f', {coverage.WARNING}' if one.partial else ''}"
    )


def _side(settings: dict[str, Any]) -> float | None:
    """Return the side in px of the images that a protocol sees; None where it is native, or not a number."""
    side = next((settings[name] for name in SIZES if name in settings), None)
    return side if isinstance(side, int | float) and not isinstance(side, bool) else None


def _remark(settings: dict[str, Any]) -> str:
    """Return what a reader must know about a group: that its runs were cut short, what was chosen on the scored split, and what
    was chosen with labels."""
    remarks = []
    if not settings.get("comparable", True):
        remarks.append(f"{settings.get('iterations')} iterations (not comparable with published runs)")
    if isinstance(count := settings.get("validations"), int) and count > 1:
        remarks.append(f"the best of {count} validations on the scored split")
    if (chosen := settings.get("chosen_with_labels")) is not None:
        remarks.append(f"{', '.join(chosen) or 'nothing'} chosen with labels")
    return ", ".join(remarks)


def _name(metric: str) -> str:
    return NAMES.get(metric, metric)


def _share(setting: str) -> tuple[float, str]:
    """Order of published settings: the smallest share first, such as "fraction=1/8", "fraction=1/1;memory=1.02M"; then others."""
    share = re.match(r"fraction=1/(\d+)", setting)
    return -float(share.group(1) if share else 1), setting


def published_tables(numbers: pd.DataFrame) -> list[Table]:
    """The papers' numbers, one table a protocol and data set, in the order of the papers; notes are kept."""
    found = []
    for (protocol, dataset), own in numbers.groupby(["protocol", "dataset"], sort=True):
        metrics = [_name(metric) for metric in own.metric.unique()]
        settings = sorted(own.setting.unique(), key=_share)
        if len(metrics) > 1:
            own = own.assign(setting=own.setting + " " + own.metric.map(_name))
            settings = [f"{setting} {metric}" for setting in settings for metric in metrics]
        cells = []
        for keys, row in own.groupby(["paper", "table", "method", "backbone", "pretrain_data", "pretrain_epochs"], sort=False):
            values = dict(zip(row.setting, row.value, strict=True))
            data = ", ".join(part for part in (keys[4], f"{keys[5]} epochs" if keys[5] else "") if part)
            notes = "; ".join(dict.fromkeys(note for note in row.note if note))
            label = {"method": keys[2], "backbone": keys[3], "pretraining": data, "source": f"{keys[0]} {keys[1]}"}
            columns = {setting.removeprefix("fraction="): values.get(setting, "") for setting in settings}
            cells.append({**label, **columns, "note": notes})
        texts = pd.DataFrame(cells).fillna("").astype(str)
        caption = f"published, not measured here: {protocol} on {dataset}, {', '.join(metrics)} in %"
        found.append(Table(caption, texts, texts.map(lambda _: False)))
    return found


class _Callable(ModuleType):
    """`densebench.results.leaderboard` is the function, also where somebody imported the module of that name before."""

    def __call__(self, results: Path = Path("results"), *, published: bool = False) -> Leaderboard:
        return leaderboard(results, published=published)


sys.modules[__name__].__class__ = _Callable
