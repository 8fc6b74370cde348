"""`densebench report`: one self-contained HTML page with the tables, curves, classes and pictures of a results folder."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from densebench.console import one_line
from densebench.results.choosing import folders
from densebench.results.curves import LABELS, averages, draw, several
from densebench.results.leaderboard import leaderboard
from densebench.results.score import SIGNS, Point, in_unit, sort_key
from densebench.results.tables import Block, Leaderboard, Section, Table, page, part_names

PICTURES = 4  # of a record at most
LINES = 10  # of a plot at most: the best backbones


def report(results: str | Path | Sequence[str | Path] = "results", *, published: bool | str | Path = False) -> str:
    """Return the page as HTML, of one results folder or of several, whose records are merged.

    published: add the papers' numbers, with a path those of this CSV file too.

    Raises UserError where no record may stand in a table.
    """
    where = folders(results)
    board = leaderboard(where, published=published)
    sections = list(_sections(board, where))
    records, weights = board.scores.record.nunique(), board.scores.digest.nunique()
    summary = f"{records} records of {weights} sets of weights on {len(sections)} data sets."
    if board.published_tables:
        sections.append(Section("published", list(map(Block, board.published_tables))))
    return page("densebench report", summary, sections)


def _sections(board: Leaderboard, results: Sequence[Path]) -> Iterator[Section]:
    by_group = {table.of: table for table in board.tables}
    for (dataset, split), scores in board.scores.groupby(["dataset", "split"], sort=True):
        profiles = [Block(table) for table in board.profiles if table.of == f"{dataset} {split}"]
        groups = scores.groupby("group", sort=True)
        blocks = [_block(by_group[name], rows, results) for name, rows in groups if name in by_group]
        yield Section(f"{dataset} {split}", [*profiles, *blocks])


def _block(table: Table, rows: pd.DataFrame, results: Sequence[Path]) -> Block:
    shown = rows[rows.headline]
    shown = shown.assign(name=shown.label)
    plot, caption = _plot(shown)
    return Block(table, plot, caption, _classes(shown), list(_pictures(shown, results)))


def _plot(shown: pd.DataFrame) -> tuple[str, str]:
    """Return a curve over the fraction or over K, and its caption; nothing where there is one point."""
    from matplotlib import rc_context

    axis = next((axis for axis in several(shown) if axis in LABELS), None)
    if axis is None:
        return "", ""
    curves = averages(shown, axis)
    best = (SIGNS[shown.iloc[0].direction] * curves.set_index("name")["mean"]).groupby("name").max().nlargest(LINES).index
    caption = f"headline over the {LABELS[axis]}, mean and standard deviation over seeds"
    caption += f"; the best {LINES} of {curves.name.nunique()} backbones" if curves.name.nunique() > LINES else ""
    unit = in_unit(shown.iloc[0].unit, shown.iloc[0].direction)
    with rc_context({"text.parse_math": False}):  # names are drawn as they are: "$" does not begin a formula
        return _figure(curves, list(best), axis, f"headline{unit}"), caption


def _figure(curves: pd.DataFrame, names: list[str], axis: str, value: str) -> str:
    """Return a plot as the source of an image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.4 + 0.2 * len(names)), layout="constrained")
    axes = figure.subplots()
    lines = draw(axes, curves, names, axis)
    axes.set_ylabel(value)
    figure.legend(lines, names, loc="outside lower left", fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return _embedded(stream.getvalue(), "svg+xml")


def _classes(shown: pd.DataFrame) -> Table | None:
    """Return the headline of every class (or object of a video) by backbone, at the last point, mean over seeds."""
    last: Point = max(shown.point, key=sort_key)
    rows = shown[shown.point.map(lambda point: point == last)]
    rows = rows[rows.per_class.map(bool)]
    if rows.empty:
        return None
    by_backbone = rows.groupby("name", sort=False).per_class
    values = pd.DataFrame({str(name): pd.DataFrame(list(parts)).astype(float).mean() for name, parts in by_backbone})
    first = rows.iloc[0]
    gains = SIGNS[first.direction] * values
    gains = gains[gains.mean().sort_values(ascending=False).index]
    cells = values[gains.columns].map(lambda value: "" if pd.isna(value) else f"{value:.{first.digits}f}")
    cells.insert(0, "class", cells.index)
    best = gains.eq(gains.max(axis=1), axis=0).reindex(columns=cells.columns, fill_value=False)
    metric, part = part_names(first.metric)
    caption = f"{metric}{in_unit(first.unit, 'higher')} by {part}{in_unit('', first.direction)}, mean over seeds"
    return Table(caption, cells.reset_index(drop=True), best.reset_index(drop=True))


def _pictures(shown: pd.DataFrame, results: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield the title and the source of a few pictures of each record, from the first folder that has any."""
    for name, record in shown[["name", "record"]].drop_duplicates().itertuples(index=False):
        found = (sorted((folder / "pictures" / str(record)).glob("*.png")) for folder in results)
        for path in next(filter(None, found), [])[:PICTURES]:
            yield one_line(f"{name}: {path.stem}"), _embedded(path.read_bytes(), "png")


def _embedded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
