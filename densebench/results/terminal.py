"""Tables on a terminal: they fit its width, and no number is cut.

Texts are broken into lines, the least needed columns are left out, and what is still too wide is printed in several parts, one
under the other, each with the columns that name the rows.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # lists and help texts need only the width
    from rich.table import Table

GAP = 2  # columns of the terminal between two columns of a table
HEADING = 14  # the width up to which a heading is not broken where there is room
WORDS = re.compile(r"(?<=[ ])|(?<=/)(?=[a-z])")  # where a heading may be broken: "incontext/hummingbird", but not "1/8"
Row = tuple[Sequence[str], Sequence[bool]]
"""The cells of a row, and for each whether it is the best of its column."""


@dataclass(frozen=True)
class Layout:
    """How a table gives way to a narrow terminal.

    labels: the columns that name a row. texts: those whose cells may be broken into lines, and the least width of each.
    spare: those to leave out first, in this order, where rows can be told apart without them; they go before a text gets
    narrower than 1.5 times its least width.
    """

    labels: Sequence[str]
    texts: Mapping[str, int]
    spare: Sequence[str]


def terminal_width() -> int | None:
    """Return the width of the terminal that stdout is; None where stdout is no terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def wrapped(text: str, indent: int = 0) -> list[str]:
    """Return a text as lines that an indent will precede and that fit the terminal; one line where stdout is no terminal."""
    width = terminal_width()
    if width is None:
        return [text]
    return textwrap.wrap(text, max(width - indent, 20), break_long_words=False, break_on_hyphens=False) or [""]


def fitted(columns: Sequence[str], rows: Sequence[Row], layout: Layout, width: int) -> tuple[list[Table], list[str]]:
    """Return the tables to print one under the other, and the columns that are left out of them."""
    natural, least = {}, {}
    for index, name in enumerate(columns):
        natural[name], least[name] = _sizes(name, [cells[index] for cells, _ in rows], layout)
    roomy = {name: min(natural[name], 3 * size // 2) if name in layout.texts else size for name, size in least.items()}
    shown = list(columns)
    for name in layout.spare:
        if _total(roomy, shown) > width and name in shown and _apart(columns, rows, layout, shown, name):
            shown.remove(name)
    parts = _parts(shown, layout, least, width)
    values = [[name for name in part if name not in layout.labels] for part in parts]
    filled = [_filled(columns, rows, names) for names in values] if len(parts) > 1 else [rows]
    sizes = [_widths(part, natural, least, layout, width) for part in parts]
    tables = [_table(columns, *each, layout) for each in zip(filled, parts, sizes, strict=True)]
    return tables, [name for name in columns if name not in shown]


def _total(sizes: Mapping[str, int], names: Sequence[str]) -> int:
    return sum(sizes[name] for name in names) + GAP * (len(names) - 1)


def _sizes(name: str, cells: Sequence[str], layout: Layout) -> tuple[int, int]:
    """Return the width of a column where there is room, and its least width: nothing is cut but texts, which are broken."""
    from rich.cells import cell_len

    content = max(map(cell_len, cells), default=0)
    if name in layout.labels:
        natural = max(content, cell_len(name))
        return natural, min(natural, layout.texts.get(name, natural))
    least = max(content, *(cell_len(word.strip()) for word in WORDS.split(name)))
    return max(least, min(cell_len(name), HEADING)), least


def _apart(columns: Sequence[str], rows: Sequence[Row], layout: Layout, shown: Sequence[str], without: str) -> bool:
    """Return whether the labels that are left without a column tell as many rows apart as all labels do."""

    def names(chosen: Sequence[str]) -> int:
        indices = [index for index, name in enumerate(columns) if name in chosen and name in layout.labels and name != "rank"]
        return len({tuple(cells[index] for index in indices) for cells, _ in rows})

    return names([name for name in shown if name != without]) == names(columns)


def _parts(shown: Sequence[str], layout: Layout, least: Mapping[str, int], width: int) -> list[list[str]]:
    """Return the columns of each part: all labels, and as many others as fit, at least one."""
    labels = [name for name in shown if name in layout.labels]
    parts: list[list[str]] = [[]]
    for name in (name for name in shown if name not in labels):
        if parts[-1] and _total(least, [*labels, *parts[-1], name]) > width:
            parts.append([])
        parts[-1].append(name)
    return [[*labels, *part] for part in parts]


def _widths(
    part: Sequence[str], natural: Mapping[str, int], least: Mapping[str, int], layout: Layout, width: int
) -> dict[str, int]:
    """Return the width of each column: texts and then headings share the room that is left; where there is none texts shrink."""
    sizes = {name: least[name] for name in part}
    texts = [name for name in part if name in layout.texts]
    for group in (texts, [name for name in part if name not in texts]):
        for _ in range(width - _total(sizes, part)):
            lacking = max(group, key=lambda name: natural[name] - sizes[name], default=None)
            if lacking is None or natural[lacking] == sizes[lacking]:
                break
            sizes[lacking] += 1
    for _ in range(_total(sizes, part) - width):
        if wide := [name for name in texts if sizes[name] > 6]:
            sizes[max(wide, key=sizes.__getitem__)] -= 1
    return sizes


def _filled(columns: Sequence[str], rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return the rows that have anything in one of these columns."""
    indices = [columns.index(name) for name in names]
    return [row for row in rows if any(row[0][index].strip() for index in indices)]


def _table(columns: Sequence[str], rows: Sequence[Row], part: Sequence[str], sizes: Mapping[str, int], layout: Layout) -> Table:
    from rich import box
    from rich.align import Align
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="")
    for name in part:
        side: Literal["left", "right"] = "left" if name in layout.labels else "right"
        heading = Align(Text("\n".join(_lines(name, sizes[name]))), side, vertical="bottom")
        table.add_column(heading, width=sizes[name], no_wrap=name not in layout.texts, overflow="fold", justify=side)
    for cells, best in rows:
        by_name = {name: Text(cell, "bold" if top else "") for name, cell, top in zip(columns, cells, best, strict=True)}
        table.add_row(*(by_name[name] for name in part))
    return table


def _lines(heading: str, width: int) -> list[str]:
    """Return a heading in lines of at most this width, broken between words; a longer word has a line to itself."""
    lines = [""]
    for word in WORDS.split(heading):
        if lines[-1] and len((lines[-1] + word).strip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.strip() for line in lines]
