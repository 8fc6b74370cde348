"""`densebench report`: one self-contained HTML page with the tables, plots, classes and pictures of a results folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from densebench.options import PATH, SWITCH, check_types
from densebench.results import charts, tradeoff
from densebench.results.against import against as set_against
from densebench.results.choosing import folders, listed, read
from densebench.results.curves import LABELS, averages, several, tick
from densebench.results.frame import deciding
from densebench.results.gallery import PAGE, Gallery, galleries
from densebench.results.html import addresses, page
from densebench.results.leaderboard import beside_published, of_scores, scores_of
from densebench.results.ranking import best_of
from densebench.results.score import SIGNS, Point, in_unit, sort_key
from densebench.results.tables import COMPARE, Block, Leaderboard, Section, Table, metric_name, part_names

LINES = 10  # of a plot at most: the best backbones
CLASSES = 3000  # cells of a table of classes at most


def report(
    results: str | Path | Sequence[str | Path] = "results",
    *,
    published: bool | str | Path = False,
    against: str | Sequence[str] = (),
    beside: str | Path | None = None,
) -> str:
    """Return the page as HTML, of one results folder or of several, whose records are merged.

    published: add the papers' numbers, with a path those of this CSV file too. against: add a paper's tables with what was
    measured beside each number, "neco:8", or several, see `against.against`. beside: the file that the page is for; the page has
    links to the records that lie in its folder or below.

    Raises UserError where no record may stand in a table, and for a table of a paper that does not exist.
    """
    check_types((*SWITCH, *PATH), published=published)
    where = folders(results)
    records = read(where)
    scores = scores_of(records, where, costs=True)
    board = of_scores(scores, {record["id"]: record for record in records}, where, costs=True)
    board = beside_published(board, published) if published else board
    sections = list(_sections(board))
    summary = f"{scores.record.nunique()} records of {scores.digest.nunique()} sets of weights on {len(sections)} data sets."
    file = None if isinstance(published, bool) else published
    for reference in [against] if isinstance(against, str) else listed("tables of papers", against):
        tables = set_against(records, reference, published=file).tables
        sections.append(Section(f"{reference} beside measured", list(map(Block, tables))))
    if board.published_tables:
        sections.append(Section("published", list(map(Block, board.published_tables))))
    write = partial(page, "densebench report", f"{summary} {COMPARE}", addresses=addresses(where, beside))
    return write(_with_pictures(sections, where, PAGE - len(write(sections).encode())))


def _with_pictures(sections: Sequence[Section], results: Sequence[Path], room: int) -> list[Section]:
    """Return the sections with the pictures of their records, which may take `room` bytes."""
    blocks = [block for section in sections for block in section.blocks]
    found = iter(galleries([list(zip(*_rows(block.table), strict=True)) for block in blocks], results, room))
    return [replace(section, blocks=[_illustrated(block, next(found)) for block in section.blocks]) for section in sections]


def _rows(table: Table) -> tuple[Sequence[str], Sequence[str]]:
    """Return the backbones and the records of a table whose rows are of a record each."""
    return (list(table.cells.backbone), table.records) if table.records else ((), ())


def _illustrated(block: Block, pictures: Gallery) -> Block:
    return replace(block, legend=pictures.legend, gallery=pictures.rows, gallery_note=pictures.note)


def _sections(board: Leaderboard) -> Iterator[Section]:
    by_group = {table.of: table for table in board.tables}
    for (dataset, split), scores in board.scores.groupby(["dataset", "split"], sort=True):
        profiles = [Block(table) for table in board.profiles if table.of == f"{dataset} {split}"]
        groups = scores.groupby("group", sort=True)
        blocks = [_block(by_group[name], rows) for name, rows in groups if name in by_group]
        yield Section(f"{dataset} {split}", [*profiles, *blocks])


def _block(table: Table, rows: pd.DataFrame) -> Block:
    shown = rows[rows.headline]
    shown = shown.assign(name=shown.label)
    return Block(table, classes=_classes(shown), plots=[*_curves(shown), *tradeoff.plots(table, shown)])


def _curves(shown: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield a plot over the fraction or over K, with its title and caption; nothing where there is one point."""
    axis = next((axis for axis in several(shown) if axis in LABELS), None)
    if axis is None:
        return
    first = shown.iloc[0]
    means = SIGNS[first.direction] * shown.groupby(["name", axis]).value.mean()
    best = list(means.groupby("name").max().nlargest(LINES).index)
    averaged = averages(shown[shown.name.isin(best)], axis)
    lines = [_line(name, averaged[averaged.name == name].sort_values("x")) for name in best]
    up = f"{metric_name(first.metric)}{in_unit(first.unit, first.direction)}"
    xs = sorted(averaged.x.unique())
    names = "; ".join(best)
    plot = charts.curves(
        lines, LABELS[axis], up, f"{up} over the {LABELS[axis]}. From the best: {names}", [(x, tick(x, axis)) for x in xs],
        factors=min(xs) > 0,
    )  # fmt: skip
    banded = [line.banded for line in lines]
    errors = [*(["bands: 95 % interval over images"] if any(banded) else [])]
    errors += [*(["bars: standard deviation over seeds"] if not all(banded) else [])]
    few = f"; the best {len(lines)} of {shown.name.nunique()} backbones" if shown.name.nunique() > len(lines) else ""
    yield f"Headline over the {LABELS[axis]}", plot, f"Means over seeds; {'; '.join(errors)}{few}. From the best: {names}."


def _line(name: str, curve: pd.DataFrame) -> charts.Line:
    """Return a curve with a band of its 95 % interval, else with bars of its standard deviation over seeds."""
    banded = bool(curve.low.notna().all())
    low, high = (curve.low, curve.high) if banded else (curve["mean"] - curve["std"], curve["mean"] + curve["std"])
    return charts.Line(name, curve.x.tolist(), curve["mean"].tolist(), low.tolist(), high.tolist(), banded)


def _classes(shown: pd.DataFrame) -> Table | None:
    """Return the headline of every class (or object of a video) by backbone, at the point that ranks go by, mean over seeds."""
    last: Point = max(deciding(shown).point, key=sort_key)
    rows = shown[shown.point.map(lambda point: point == last)]
    rows = rows[rows.per_class.map(bool)]
    if rows.empty:
        return None
    by_backbone = rows.groupby("name", sort=False).per_class
    values = pd.DataFrame({str(name): pd.DataFrame(list(parts)).astype(float).mean() for name, parts in by_backbone})
    first = rows.iloc[0]
    order = (SIGNS[first.direction] * values).mean().sort_values(ascending=False, kind="stable").index
    most = max(LINES, CLASSES // len(values))
    values = values[order[:most]]
    cells = pd.DataFrame({name: [_text(value, first.digits) for value in values[name]] for name in values})
    cells.insert(0, "class", list(values.index))
    best = best_of(values.T, first.direction, int(first.digits)).T.reset_index(drop=True)
    metric, part = part_names(first.metric)
    caption = f"{metric}{in_unit(first.unit, 'higher')} by {part}{in_unit('', first.direction)}, mean over seeds"
    caption += f"; the best {most} of {len(order)} backbones" if len(order) > most else ""
    numbers = values.reset_index(drop=True).reindex(columns=cells.columns)
    return Table(caption, cells, best.reindex(columns=cells.columns, fill_value=False), values=numbers)


def _text(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"
