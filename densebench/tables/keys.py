"""The keys of a table file's entries: what each takes, and how its value is read and checked."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from densebench.console import one_line
from densebench.errors import UserError, unknown
from densebench.flag import LARGEST, Flag

SHA256 = re.compile(r"[0-9a-f]{64}")
LAYERS = re.compile(r"last|query|key|value|attention|-?\d+(,-?\d+)*")
ROLES = ("teacher", "student")
UPSAMPLERS = re.compile(r"(nearest|bilinear|joint-bilateral(-naf)?|guided|[^:]+\.py|hub:.+:.+)(:[0-9]+|:full)?")
POSITIONS = ("auto", "antialias", "plain", "offset")


class Key(NamedTuple):
    """One key: the function that reads a TOML value, and what it takes, in words. The function raises ValueError."""

    read: Callable[[Any], Any]
    takes: str


@contextmanager
def within(where: str) -> Iterator[None]:
    """Put `where` in front of the message of a UserError that the block raises."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(value)
    return value


def _line(value: Any) -> str:
    if _text(value) != one_line(value):
        raise ValueError(value)
    return str(value)


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(value)
        return value

    return read


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values:
        raise ValueError(value)
    return tuple(_text(each) for each in values)


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if pattern.fullmatch(_text(value)) is None:
            raise ValueError(value)
        return str(value)

    return read


def _layer(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return _matching(LAYERS)(",".join(map(str, values)))


def _colours(value: Any) -> str:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value)
    ):
        raise ValueError(value)
    return ",".join(map(str, value))


def one_of(*words: str) -> Callable[[Any], str]:
    """Return a function that reads one of some words. It raises ValueError for anything else."""
    return _matching(re.compile("|".join(words)))


def _one_of(words: tuple[str, ...]) -> Key:
    return Key(one_of(*words), " or ".join(words))


def _rows(value: Any) -> dict[str, str] | list[dict[str, str]]:
    return [_row(each) for each in value] if isinstance(value, list) and value else _row(value)


def _row(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(value)
    known = published_columns()
    for column, text in value.items():
        if column not in known:
            raise unknown("column in row", column, known, f"published.csv has {', '.join(known)}")
        if not isinstance(text, str | int | float) or isinstance(text, bool):
            raise ValueError(value)
    return {column: str(text) for column, text in value.items()}


TEXT = Key(_text, "a text")
NAME = Key(_line, "a text that is not empty, in one line, without control characters")
NAMES = Key(_texts, "a text, or a list of texts that is not empty")
SEED = Key(_whole(0, 2**63 - 1), "a whole number from 0")
COUNT = Key(_whole(1, LARGEST), "a whole number from 1")
WEIGHTS: Mapping[str, Key] = {
    "weights": TEXT,
    "url": TEXT,
    "sha256": Key(_matching(SHA256), "64 hexadecimal digits in small letters"),
}
ROW = Key(
    _rows, 'columns of published.csv with their texts, such as {method = "DINO", backbone = "ViT-S/16"}, or a list of these'
)
UPSAMPLE = Key(_matching(UPSAMPLERS), "NAME[:FACTOR]: nearest, bilinear, joint-bilateral, guided, ./file.py or hub:REPO:ENTRY")
COLOURS = Key(_colours, "three numbers, for red, green and blue, such as [0.485, 0.456, 0.406]")

BACKBONE: Mapping[str, Key] = {
    "spec": TEXT, **WEIGHTS, "name": NAME,
    "layer": Key(_layer, "last, query, key, value, attention, or numbers of blocks"),
    "pos_embed": _one_of(POSITIONS), "role": _one_of(ROLES), "seed": SEED, "row": ROW,
    "mean": COLOURS, "std": COLOURS, "debias": COUNT, "upsample": UPSAMPLE,
}  # fmt: skip
PRETRAIN: Mapping[str, Key] = {
    "name": NAME, "method": TEXT, "preset": TEXT, "data": NAMES, "variant": _one_of(("official", "paper")), "init": TEXT,
    **WEIGHTS, "seed": SEED, "limit": COUNT, "processes": COUNT, "row": ROW,
}  # fmt: skip
EVALUATION: Mapping[str, Key] = {
    "protocol": TEXT, "preset": TEXT, "datasets": NAMES, "backbones": NAMES, "limit": COUNT, "processes": COUNT,
}  # fmt: skip
MISSING: Mapping[str, Key] = {"row": ROW, "why": NAME}
SWEPT = ("preset", "data", "variant", "init", "weights", "seed", "limit")
"""The keys of a pretraining that may be swept, besides the options of its method."""


@cache
def published_columns() -> tuple[str, ...]:
    """Return the columns of published.csv."""
    with files("densebench.results").joinpath("published", "published.csv").open(encoding="utf-8") as stream:
        return tuple(next(csv.reader(stream)))


def read_key(key: str, value: Any, known: Mapping[str, Key]) -> Any:
    """Return the checked value of a key. Raises UserError for one that it does not take."""
    try:
        return known[key].read(value)
    except ValueError as error:
        shown = one_line(str(value))
        raise UserError(f"{key} = {shown if len(shown) <= 60 else f'{shown[:57]}...'}: it takes {known[key].takes}") from error


def read_keys(entry: Mapping[str, Any], known: Mapping[str, Key], needed: Iterable[str]) -> dict[str, Any]:
    """Return the values of an entry's keys. Raises UserError for an unknown key, a missing one and a value that is wrong."""
    for key in entry:
        if key not in known:
            raise unknown("key", key, known, f"it takes {', '.join(known)}")
    if missing := next((key for key in needed if key not in entry), None):
        raise UserError(f"{missing} is missing: it takes {known[missing].takes}")
    return {key: read_key(key, value, known) for key, value in entry.items()}


def read_entry(
    entry: Mapping[str, Any], known: Mapping[str, Key], needed: Iterable[str], flags: Mapping[str, Flag]
) -> dict[str, Any]:
    """Return the values of an entry whose method or protocol has options of its own, `flags`; these under `options`, as JSON.

    Raises UserError as `read_keys` does.
    """
    for key in entry:
        if key not in known and key not in flags:
            raise unknown("key", key, [*known, *flags], f"it takes {', '.join(known)} and options of its method or protocol")
    values = read_keys({key: value for key, value in entry.items() if key in known}, known, needed)
    return {**values, "options": {key: option(flags[key], value) for key, value in entry.items() if key not in known}}


def option(flag: Flag, value: Any) -> Any:
    """Return the value of an option as a JSON value. Raises UserError for one that its flag does not take."""
    return _as_json(flag.read(value))


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(each) for each in value]
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
