"""Tables as HTML: the page of the leaderboard and of the report, and the part of a page that a notebook shows."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from densebench.pages.page import render
from densebench.results.shown import Shown, shown

if TYPE_CHECKING:
    from densebench.results.tables import Block, Section, Table

COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
Blocks = list[tuple["Block", Shown, Shown | None]]
"""The blocks of a section, each with what is shown of its table and of its table of classes."""


def page(title: str, summary: str, sections: Sequence[Section], addresses: Mapping[str, str] | None = None) -> str:
    """Return one self-contained HTML page. addresses: by the ids of records, where they lie as seen from the page."""
    taken: set[str] = set()
    blocks = [(section, _blocks(section, taken)) for section in sections]
    every = [table for _, each in blocks for _, table, _ in each]
    filters = [
        ("dataset", "Data sets", _sorted(name for table in every for name in table.datasets)),
        ("protocol", "Protocols", _sorted(name for table in every for name in table.protocols)),
        ("backbone", "Backbones", _sorted(row.name for table in every for row in table.rows if row.backbone)),
    ]
    costs = any(column.cost for table in every for column in table.columns)
    places = {table.table.of: table for table in every if table.table.records}
    return render(
        "page.html", room="densebench.results", title=title, summary=summary, sections=blocks, filters=filters, costs=costs,
        addresses=addresses or {}, places=places, colours=_colours, is_markup=lambda text: hasattr(text, "__html__"),
    )  # fmt: skip


def _colours(legend: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the classes whose colour is one: what stands in a style must be nothing else."""
    return [(name, colour) for name, colour in legend if COLOUR.fullmatch(colour)]


def addresses(folders: Sequence[Path], page: str | Path | None) -> dict[str, str]:
    """Return the addresses of the records of results folders that lie in the folder of a page or below, by id."""
    if page is None:
        return {}
    home, found = Path(page).resolve().parent, {}
    for folder in reversed(folders):  # where two hold one record, it is the first folder's
        for path in sorted((folder / "records").glob("*.json")):
            if path.resolve().is_relative_to(home):
                found[path.stem] = quote(Path(os.path.relpath(path.resolve(), home)).as_posix())
    return found


def _sorted(names: Iterable[str]) -> list[str]:
    """Return the different names; those that differ in a number stand in the order of the numbers."""

    def key(name: str) -> list[str]:
        return [part.zfill(9) if part.isdigit() else part for part in re.split(r"(\d+)", name.casefold())]

    return sorted(sorted(set(names)), key=key)


def _blocks(section: Section, taken: set[str]) -> Blocks:
    """Return the blocks of a section; titles that several tables have end with the group. taken: the identifiers of tables."""
    tables = [shown(block.table, section.name, taken) for block in section.blocks]
    classes = [None if block.classes is None else shown(block.classes, section.name, taken) for block in section.blocks]
    titles = Counter(each.title for each in tables)
    several = {title for title, times in titles.items() if times > 1}
    told = [replace(each, title=f"{each.title}, group {each.table.of}") if each.title in several else each for each in tables]
    return list(zip(section.blocks, told, classes, strict=True))


NOTEBOOK = """\
{% for table in tables %}
<p style="max-width: 60em; margin: 1em 0 .3em"><b>{{ table.caption }}</b></p>
<table>
<thead>{% if table.groups %}<tr>{% for group, span in table.heads() %}<th colspan="{{ span }}" style="text-align: left">{{ group }}</th>\
{% endfor %}</tr>{% endif %}<tr>{% for name in table.headings() %}<th style="text-align: left">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for cells, best in table.rows() %}
<tr>{% for cell, top in zip(cells, best) %}<td style="text-align: left">{% if top %}<b>{{ cell }}</b>{% else %}{{ cell }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% for note in table.notes %}<p style="margin: .2em 0">{{ note }}</p>{% endfor %}
{% endfor %}
"""  # noqa: E501


def notebook_html(tables: Sequence[Table]) -> str:
    """Return tables as a part of a page, as notebooks show it: no frame, no style sheet, every text escaped."""
    import jinja2

    return jinja2.Environment(autoescape=True, trim_blocks=True).from_string(NOTEBOOK).render(tables=tables, zip=zip)
