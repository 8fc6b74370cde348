"""Sweeps of a pretraining: the points of a grid, and the values of a point written into names and rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from densebench.errors import UserError, unknown

PLACE = re.compile(r"\{(\w+)\}")
FILLED = ("name", "init", "weights", "url")
"""The keys, besides `row`, in whose texts {KEY} stands for the value of a point."""


def points(entry: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield, for each point of an entry's sweep, the keys with its values filled in, and these values; without a sweep, once.

    Raises UserError for a sweep that is not a table of lists, or that is empty, and for a placeholder that is not swept.
    """
    entry = dict(entry)
    sweep, texts = entry.pop("sweep", {}), entry.pop("rows", {})
    if not isinstance(sweep, dict):
        raise UserError("sweep: write sweep.KEY = [A, B, ...] with an option of the method")
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"sweep.{key}: it takes a list of one value or more, such as sweep.{key} = [1, 2]")
        if key in entry:
            raise UserError(f"{key} is given and swept; leave one of them out")
    written = _written(texts, sweep)
    for values in itertools.product(*sweep.values()):
        swept = dict(zip(sweep, values, strict=True))
        shown = {key: shown_value(value) for key, value in swept.items()}
        point = {**entry, **swept}
        if swept:
            point |= {key: filled(key, point[key], shown) for key in FILLED if isinstance(point.get(key), str)}
        if "row" in point and swept:
            in_row = {key: written.get(key, {}).get(text, text) for key, text in shown.items()}
            point["row"] = _filled_row(point["row"], in_row)
        yield point, swept


def filled(key: str, text: Any, shown: Mapping[str, str]) -> Any:
    """Return the text of a key with the values of a point in the place of {KEY}. Raises UserError for one that is not swept."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in shown:
            raise unknown(f"placeholder in {key}", match[1], shown, f"the sweep has {', '.join(shown)}")
        return shown[match[1]]

    return PLACE.sub(value, text) if isinstance(text, str) else text


def _filled_row(row: Any, shown: Mapping[str, str]) -> Any:
    if isinstance(row, list):
        return [_filled_row(each, shown) for each in row]
    return {key: filled(f"row.{key}", text, shown) for key, text in row.items()} if isinstance(row, dict) else row


def shown_value(value: Any) -> str:
    """Return a swept value as it stands in a name: lists with commas, true and false as yes and no."""
    if isinstance(value, list | tuple):
        return ",".join(map(shown_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _written(texts: Any, sweep: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return by swept key what a row says for a value, where the paper writes it otherwise.

    rows = {"0" = "none"} where one key is swept, else rows.KEY = {"0" = "none"}. Raises UserError for anything else.
    """
    how = 'rows: write rows.KEY = {"VALUE" = "as the paper has it"} with a swept key'
    if not isinstance(texts, dict):
        raise UserError(how)
    if len(sweep) == 1 and all(isinstance(text, str) for text in texts.values()):
        texts = {next(iter(sweep)): texts}
    for key, by_value in texts.items():
        if key not in sweep or not isinstance(by_value, dict) or not all(isinstance(text, str) for text in by_value.values()):
            raise UserError(how)
        values = [shown_value(value) for value in sweep[key]]
        for value in by_value:
            if value not in values:
                raise unknown(f"value in rows.{key}", value, values, f"sweep.{key} has {', '.join(values)}")
    return texts
