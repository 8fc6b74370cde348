"""Which row of a published table is a measured backbone's: the one that a table file says, else the one that its name says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densebench.errors import UserError, unknown
from densebench.results.published import settings
from densebench.results.published.layout import Layout, Row

PLAIN = Row._fields[:-1]
KEYS = (*PLAIN, "setting")
"""The columns of published numbers that may say which row is meant."""
SILENT = ("params_millions", "pretrain_data", "pretrain_epochs")
"""Those in which an empty cell means that the table does not say."""


@dataclass(frozen=True)
class Match:
    """The rows that are a backbone's: none, one, or several that compete. note: what differs and may stand."""

    rows: Sequence[Row] = ()
    note: str = ""


def by_columns(layout: Layout, wanted: Mapping[str, Any]) -> Match:
    """Return the row whose columns are as wanted; the one that says most of it where others do not say.

    A row that the table gives other epochs is taken where no other fits, with a note. Raises UserError for an unknown column.
    """
    for name in wanted:
        if name not in KEYS:
            raise unknown("column", str(name), KEYS, f"a row is chosen by {', '.join(KEYS)}")
    texts = {name: str(value).strip() for name, value in wanted.items()}
    for left_out in ((), ("pretrain_epochs",)):
        asked = {name: value for name, value in texts.items() if name not in left_out}
        agreeing = {row: score for row in layout.rows if (score := _agreement(layout, row, asked)) is not None}
        if agreeing:
            rows = [row for row, score in agreeing.items() if score == max(agreeing.values())]
            return Match(rows, _epochs(rows, texts["pretrain_epochs"]) if left_out else "")
    return Match()


def _agreement(layout: Layout, row: Row, asked: Mapping[str, str]) -> tuple[int, int] | None:
    """Return how much of what is asked a row says, and whether it says no item more; None where it says otherwise."""
    said, items = 0, dict(row.items)
    for name in (name for name in PLAIN if name in asked):
        printed = getattr(row, name)
        if not printed and name in SILENT:
            continue
        if not (_same(printed, asked[name]) or (name == "params_millions" and settings.same(printed, asked[name]))):
            return None
        said += 1
    of_columns = {item for column in layout.columns if (row, column) in layout.numbers for item in column.items}
    given = settings.items(asked.get("setting", ""))
    for name, value in given.items():
        if name in items and settings.same(items[name], value):
            said += 1
        elif not any(name == other and settings.same(printed, value) for other, printed in of_columns):
            return None
    return said, int(items.keys() <= given.keys())


def _same(one: str, other: str) -> bool:
    return " ".join(one.casefold().split()) == " ".join(other.casefold().split())


def by_name(layout: Layout, name: str) -> Match:
    """Return the row that a name in tables says: "DINO ViT-S/16", then ", COCO", ", 300 epochs" and items of the setting.

    The method and the backbone must be those of the row. What follows must stand in the row; where the table gives other epochs,
    the row is taken with a note.
    """
    head, *more = (part.strip() for part in name.split(","))
    rows = [row for row in layout.rows if _same(f"{row.method} {row.backbone}", head)]
    epochs = [match[1] for part in more if (match := re.fullmatch(r"(\S+) epochs?", part))]
    rows = [row for row in rows if all(_says(row, part) for part in more if not re.fullmatch(r"\S+ epochs?", part))]
    exact = [row for row in rows if not epochs or row.pretrain_epochs == epochs[0]]
    if exact or not rows or not all(row.pretrain_epochs for row in rows):
        return Match(exact)
    return Match(rows, _epochs(rows, epochs[0]))


def _says(row: Row, part: str) -> bool:
    given = settings.items(part)
    items = dict(row.items)
    in_items = all(name in items and settings.same(items[name], value) for name, value in given.items())
    return _same(row.pretrain_data, part) or in_items


def _epochs(rows: Sequence[Row], epochs: str) -> str:
    return f"pretrained for {epochs} epochs, the paper's for {' or '.join(dict.fromkeys(row.pretrain_epochs for row in rows))}"


def words(layout: Layout, row: Row) -> str:
    """Return a row as text that names it among the rows of its table: "DINO ViT-S/16, COCO, 300 epochs"."""
    parts = [
        f"{row.method} {row.backbone}".strip(),
        row.pretrain_data,
        f"{row.pretrain_epochs} epochs" if row.pretrain_epochs else "",
    ]
    return ", ".join(filter(None, [*parts, settings.text(dict(row.items))]))


def matches(layout: Layout, name: str, wanted: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[Match]:
    """Return the row of a backbone by what is said about it, else by its name in tables; several rows may be said.

    Raises UserError for what says no row, and for an unknown column.
    """
    if wanted is None:
        return [by_name(layout, name)]
    several = [wanted] if isinstance(wanted, Mapping) else wanted
    if not isinstance(several, list | tuple) or not several or not all(isinstance(each, Mapping) for each in several):
        raise UserError(f"the row of {name} is {wanted!r}; give columns and their values, such as {{'method': 'DINO'}}")
    return [by_columns(layout, each) for each in several]
