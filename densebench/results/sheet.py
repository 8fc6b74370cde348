"""A sheet: sections of facts and tables, as text that fits a terminal, or as plain lines in a pipe."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from densebench.console import one_line
from densebench.results.terminal import Layout, fitted, terminal_width

if TYPE_CHECKING:  # pipes do without it
    from rich.console import Console

INDENT = 2
NAMES = 14  # the least width of a column that names rows


@dataclass(frozen=True)
class Section:
    """A heading, then labelled facts, then a table, then lines of text; what is empty is left out.

    columns, rows: of the table; the first `labels` columns name a row. commands: lines that are not broken, so that they can be
    copied. All other texts may hold anything: they are shown in one line, or in as many as the terminal needs.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    labels: int = 1
    lines: Sequence[str] = ()
    commands: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing below the heading."""
        return not (self.facts or self.rows or self.lines or self.commands)


def text(sections: Iterable[Section], width: int | None = None) -> str:
    """Return sections as plain text that is at most `width` columns wide; None: each fact and each row is one line."""
    if width is None:
        return "\n\n".join("\n".join(_plain(section)) for section in sections) + "\n"
    from rich.console import Console

    stream = io.StringIO()
    _show(Console(file=stream, width=width, color_system=None, highlight=False), sections)
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def show(sections: Iterable[Section]) -> None:
    """Print sections: on a terminal in its width and with bold headings, elsewhere as plain text."""
    if terminal_width() is None:
        print(text(sections), end="")
        return
    from rich.console import Console

    _show(Console(highlight=False), sections)


def _plain(section: Section) -> list[str]:
    pad = " " * INDENT
    widest = max((len(label) for label, _ in section.facts), default=0)
    facts = [f"{pad}{one_line(label):<{widest}}  {one_line(value)}".rstrip() for label, value in section.facts]
    table = [list(section.columns), *section.rows] if section.rows else []
    cells = [[one_line(cell) for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = [
        "  ".join(f"{cell:{'<' if place < section.labels else '>'}{widths[place]}}" for place, cell in enumerate(row))
        for row in cells
    ]
    lines = [pad + line.rstrip() for line in (*aligned, *map(one_line, (*section.lines, *section.commands)))]
    return [one_line(section.title), *facts, *lines]


def _show(console: Console, sections: Iterable[Section]) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    def below(*parts: object) -> None:
        for part in parts:
            console.print(Padding(part, (0, 0, 0, INDENT)))  # type: ignore[arg-type]

    for number, section in enumerate(sections):
        if number:
            console.print()
        console.print(Text(one_line(section.title), "bold", overflow="fold"))
        if section.facts:
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            for label, value in section.facts:
                grid.add_row(Text(one_line(label), "dim"), Text(one_line(value)))
            below(grid)
        if section.rows:
            columns, rows = (
                [one_line(name) for name in section.columns],
                [[one_line(cell) for cell in row] for row in section.rows],
            )
            named = columns[: section.labels]
            layout = Layout(labels=named, texts=dict.fromkeys(named, NAMES), spare=())
            tables, _ = fitted(columns, [(row, [False] * len(row)) for row in rows], layout, console.width - INDENT)
            below(tables[0], *(part for table in tables[1:] for part in ("", table)))
        below(*(Text(one_line(line), overflow="fold") for line in section.lines))
        for command in section.commands:
            console.print(Text(" " * INDENT + one_line(command)), soft_wrap=True)
