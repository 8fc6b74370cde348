"""What is shown of records: tables, and their text as Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from densebench.errors import unknown
from densebench.results.html import addresses, notebook_html, page
from densebench.results.terminal import Layout, fitted, terminal_width
from densebench.results.texts import csv_text, latex_table, markdown_table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

COMPARE = "Only the numbers of one table compare with each other."
LAYOUT = Layout(
    labels=("rank", "backbone", "width", "stride", "layer", "positions", "weights", "identity", "method", "pretraining", "source",
            "note", "class", "device", "params", "data", "epochs", "setting"),
    texts={"backbone": 16, "device": 12, "method": 8, "pretraining": 12, "source": 10, "note": 16, "class": 10, "data": 8,
           "setting": 12},
    spare=("width", "stride", "note", "positions", "layer", "source", "weights", "identity", "params"),
)  # fmt: skip


@dataclass(frozen=True)
class About:
    """What a caption says, in parts, for pages. title: a heading. datasets, protocols: those that the numbers are of.

    facts: a word and what is so, such as ("size", "224 px").
    """

    title: str
    datasets: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, repr=False)
class Table:
    """Texts to show, one row for each backbone: `cells` with a column for each point, `best` marks the best value of each column.

    of: the group of records that a table shows, or the data set and split that a profile is of. identities: of each row, the
    digest of the backbone without its names; empty where no row is of a backbone that was measured. groups: a heading over each
    column, with which its own begins; "" over a column of none. notes: lines below the table; one of them says what marks mean.

    For pages, where it is known: records: the id of each row's record, "" for none. commands: the command that reproduces each
    row's record, "" for none; remarks: what a reader of it must know. values: the numbers behind the texts, by which
    columns are sorted, with the rows and the names of columns of `cells`; NaN where there is none. intervals: of each row, `low`,
    `high` and `value` of the column that ranks go by, NaN where there is no interval. about: the caption in parts. sources: the
    groups that the numbers of a profile are of, whose tables name their records.
    """

    caption: str
    cells: pd.DataFrame
    best: pd.DataFrame
    of: str = ""
    identities: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    values: pd.DataFrame | None = None
    intervals: pd.DataFrame | None = None
    about: About | None = None

    def __str__(self) -> str:
        return markdown_table(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return notebook_html([self])

    def rows(self) -> list[tuple[list[str], list[bool]]]:
        """Return cells and marks, row by row."""
        return list(zip(self.cells.to_numpy().tolist(), self.best.to_numpy().tolist(), strict=True))

    def heads(self) -> list[tuple[str, int]]:
        """Return the headings over the columns, each with the number of columns below it; none where there are no groups."""
        return [(group, len(list(columns))) for group, columns in groupby(self.groups)]

    def headings(self) -> list[str]:
        """Return the heading of each column, without that of its group."""
        groups = self.groups or ("",) * len(self.cells.columns)
        return [name.removeprefix(group).strip() for name, group in zip(self.cells.columns, groups, strict=True)]

    def only(self, identities: set[str]) -> Table:
        """Return the table with the rows of these backbones; ranks and marks stay those of the whole, and the caption says so."""
        chosen = [index for index, identity in enumerate(self.identities) if identity in identities]
        if len(chosen) == len(self.identities):
            return self
        shown = f"{len(chosen)} of {len(self.identities)} backbones shown"
        shown += ", ranked among all" if "rank" in self.cells else ""
        about = self.about and replace(self.about, facts=(*self.about.facts, ("rows", shown)))
        frames: dict[str, Any] = {
            name: None if frame is None else frame.iloc[chosen].reset_index(drop=True)
            for name in ("cells", "best", "values", "intervals")
            for frame in (getattr(self, name),)
        }
        lists: dict[str, Any] = {
            name: tuple(each[index] for index in chosen) if (each := getattr(self, name)) else ()
            for name in ("identities", "records", "commands", "remarks")
        }
        return replace(self, caption=f"{self.caption}, {shown}", about=about, **frames, **lists)


@dataclass(frozen=True)
class Leaderboard:
    """The tables of a results folder, with the frames behind them.

    It shows itself: as HTML in a notebook; printed on a terminal, as tables that fit it; printed elsewhere, as Markdown.
    `render` gives its text in any format, wherever it goes.

    scores: one row for each score of every record that may stand in a table. published: one row for each number of a paper.
    comparison: where the tables are those of a paper, one row for each of their cells. folders: the results folders read.
    """

    scores: pd.DataFrame
    tables: list[Table]
    profiles: list[Table] = field(default_factory=list)
    published: pd.DataFrame = field(default_factory=pd.DataFrame)
    published_tables: list[Table] = field(default_factory=list)
    comparison: pd.DataFrame = field(default_factory=pd.DataFrame)
    folders: tuple[Path, ...] = ()

    @property
    def all_tables(self) -> list[Table]:
        """Every table, in the order in which they are shown."""
        return [*self.profiles, *self.tables, *self.published_tables]

    def only(self, identities: set[str]) -> Leaderboard:
        """Return the leaderboard with the rows of these backbones; tables without any of them go, published ones stay."""
        profiles, tables = ([table.only(identities) for table in each] for each in (self.profiles, self.tables))
        return replace(
            self,
            scores=self.scores[self.scores.identity.isin(identities)],
            tables=[table for table in tables if table.identities],
            profiles=[table for table in profiles if table.identities],
        )

    def render(self, format: str = "md", beside: str | Path | None = None) -> str:
        """Return the tables as text in a format: md, csv, tex or html. Raises UserError for any other.

        beside: the file that the text is for; HTML has links to the records that lie in its folder or below.
        """
        return render(self, format, beside)

    def __str__(self) -> str:
        width = terminal_width()
        if width is None:
            return self.render().rstrip("\n")
        from rich.console import Console

        stream = io.StringIO()
        Console(file=stream, width=width, color_system=None, legacy_windows=False).print(self)
        return stream.getvalue().rstrip("\n")

    def __repr__(self) -> str:
        counts = {
            "table": len(self.all_tables),
            "backbone": 0 if self.scores.empty else self.scores.identity.nunique(),
            "record": 0 if self.scores.empty else self.scores.record.nunique(),
        }
        words = [f"{count} {what}" if count == 1 else f"{count} {what}s" for what, count in counts.items()]
        return f"<Leaderboard: {', '.join(words)}>"

    def _repr_html_(self) -> str:
        return notebook_html(self.all_tables)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        mark = "" if console.is_terminal and not console.is_dumb_terminal else "*"
        for index, table in enumerate(self.all_tables):
            if index:
                yield ""
            yield from _on_terminal(table, options.max_width, mark, options.ascii_only)


@dataclass(frozen=True)
class GalleryRow:
    """One image as several backbones see it. image: its title. pictures: for each, the backbone, the source and the alt text."""

    image: str
    pictures: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """A table on a page, with what belongs to it: plots, a table of classes, and pictures.

    plots: of each, its title, its SVG as safe markup or its source, and its caption, which says what is seen. legend: of each
    class, its name and its colour as "#rrggbb". gallery: images, each with the pictures of several backbones side by side;
    gallery_note: which of them are left out.
    """

    table: Table
    classes: Table | None = None
    plots: list[tuple[str, str, str]] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    gallery: list[GalleryRow] = field(default_factory=list)
    gallery_note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading."""

    name: str
    blocks: list[Block]

    @property
    def anchor(self) -> str:
        """The name as an identifier of HTML."""
        return self.name.replace(" ", "-")


def _on_terminal(table: Table, width: int, mark: str, ascii_only: bool) -> Iterator[RenderableType]:
    """Yield the caption of a table and the table; `mark` stands beside the best values of a terminal that has no bold letters."""
    from rich.text import Text

    def text(value: str) -> str:
        return value.replace("±", "+-") if ascii_only else value

    rows = table.rows()
    columns = list(map(text, table.cells.columns))
    # Notes say what the marked cells are, which have a sign of their own.
    marks = [mark if table.best[name].any() and not table.notes else "" for name in table.cells]
    cells = [[text(cell) + (end if top else " " * len(end)) for cell, top, end in zip(*row, marks, strict=True)] for row in rows]
    tables, hidden = fitted(columns, list(zip(cells, (best for _, best in rows), strict=True)), LAYOUT, width)
    yield Text(text(table.caption), style="bold")
    if hidden:
        yield Text(f"(a wider terminal also shows {', '.join(hidden)})", style="dim")
    for index, part in enumerate(tables):
        yield from ("", part) if index else (part,)
    for note in table.notes:
        yield Text(text(note), style="dim")


METRICS = {
    "miou": "mIoU", "jf_mean": "J&F", "j_mean": "J", "f_mean": "F", "ap": "AP", "pck_image": "PCK per image",
    "pck_point": "PCK per point", "pck_image_class": "PCK per image, mean of classes",
    "pck_point_class": "PCK per point, mean of classes", "pck_point_weighted": "PCK per point, classes weighted by pairs",
}  # fmt: skip
PARTS = {"miou": ("IoU", "class"), "jf_mean": ("J&F", "object")}


def metric_name(metric: str) -> str:
    """Return what readers call a metric, such as mIoU."""
    return METRICS.get(metric, metric)


def part_names(metric: str) -> tuple[str, str]:
    """Return the name of a metric for one of the parts that it is the mean of, and what such a part is: a class or an object."""
    return PARTS.get(metric, (metric_name(metric), "class"))


def render(board: Leaderboard, format: str, beside: str | Path | None = None) -> str:
    """Return what `Leaderboard.render` does, with one line break at the end. Raises UserError for any other format."""
    html = functools.partial(_html, beside=beside)
    formats: dict[str, Callable[[Leaderboard], str]] = {"md": _markdown, "csv": _csv, "tex": _latex, "html": html}
    if format not in formats:
        raise unknown("format", format, formats, f"there are {', '.join(formats)}")
    return formats[format](board).rstrip("\n") + "\n"


def _markdown(board: Leaderboard) -> str:
    return "\n\n".join(map(markdown_table, board.all_tables))


def _csv(board: Leaderboard) -> str:
    """Return every score of every metric and variant, one a row; published numbers follow with `source` published.

    Of a paper's tables, return one row for each cell.
    """
    if not board.comparison.empty:
        return csv_text(board.comparison)
    scores = board.scores.drop(columns=["bootstrap", "per_class", "point", "coverage", "started", "label"]).assign(
        source="measured"
    )
    if not board.published.empty:
        scores = pd.concat([scores.astype(object), board.published.assign(source="published")])
    return csv_text(scores.set_index("source").reset_index())


def _latex(board: Leaderboard) -> str:
    return "% \\usepackage{booktabs}\n" + "\n\n".join(map(latex_table, board.all_tables))


def _html(board: Leaderboard, beside: str | Path | None) -> str:
    measured = "Measured" if board.comparison.empty else "Published beside measured"
    parts = {"Profiles": board.profiles, measured: board.tables, "Published": board.published_tables}
    sections = [Section(name, list(map(Block, tables))) for name, tables in parts.items() if tables]
    return page("densebench leaderboard", COMPARE, sections, addresses(board.folders, beside))
