"""The table of a look in a terminal, as plain lines, and as JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from densebench.console import one_line
from densebench.looking.looked import Figure, Look, Seen
from densebench.results.terminal import Layout, fitted

if TYPE_CHECKING:
    from rich.table import Table

NAME = "backbone"


def as_json(look: Look) -> dict[str, Any]:
    """Return the table, the pictures and the notes of a look as JSON values."""
    return {
        "title": look.title,
        "size": look.size,
        "pictures": [picture.name for picture in look.pictures],
        "backbones": [_backbone(seen) for seen in look.backbones],
        "videos": [tracks.video for tracks in look.tracks],
        "notes": list(look.notes),
        "command": look.command,
    }


def _backbone(seen: Seen) -> dict[str, Any]:
    if seen.problem:
        return {"name": seen.name, "spec": seen.spec, "problem": seen.problem}
    return {
        "name": seen.name,
        "spec": seen.spec,
        "facts": seen.facts,
        "figures": {each.name: _value(each) for each in seen.figures},
    }


def _value(figure: Figure) -> dict[str, Any]:
    known = figure.value is not None and math.isfinite(figure.value)
    return {"value": figure.value if known else None, "text": figure.text, "meaning": figure.meaning, "source": figure.source}


def columns(look: Look) -> list[str]:
    """Return the headings: the facts and figures that a backbone has, in their order."""
    found = [NAME]
    for seen in look.backbones:
        found += [name for name in (*seen.facts, *(figure.name for figure in seen.figures)) if name not in found]
    return found


def rows(look: Look) -> list[list[str]]:
    """Return one row for each backbone that did not fail; a dash where it has no such value."""
    headings = columns(look)
    cells = (
        {NAME: one_line(seen.name), **seen.facts, **{each.name: each.text for each in seen.figures}} for seen in _working(look)
    )
    return [[row.get(name, "-") for name in headings] for row in cells]


def _working(look: Look) -> list[Seen]:
    return [seen for seen in look.backbones if not seen.problem]


def problems(look: Look) -> list[str]:
    """Return a line for each backbone that failed."""
    return [f"{one_line(seen.name)}: {seen.problem}" for seen in look.backbones if seen.problem]


def plain(look: Look) -> str:
    """Return the table as Markdown."""
    lines = [columns(look), ["---", *["---:"] * (len(columns(look)) - 1)], *rows(look)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def html(look: Look) -> str:
    """Return the table as HTML, with a line for each backbone that failed; names are escaped."""
    cells = [("th", columns(look)), *(("td", row) for row in rows(look))]
    lines = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line) for tag, line in cells]
    failed = "".join(f"<p>{escape(problem)}</p>" for problem in problems(look))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>{failed}"


def tables(look: Look, width: int) -> Iterator[Table]:
    """Yield tables of rich that fit the terminal, to print one under the other."""
    layout = Layout(labels=(NAME,), texts={NAME: 12}, spare=())
    yield from fitted(columns(look), [(row, [False] * len(row)) for row in rows(look)], layout, width)[0]
