"""One option on the command line, in TOML and in Python: how it is spelt, what it takes, and how a value is read and checked."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from densebench.errors import UserError, unknown

Kind = Literal["setting", "axis", "runtime"]
LARGEST, FURTHEST = 2**31 - 1, 1e30
"""The largest absolute values of a whole number and of any other, where the declaration gives no limit."""
ENTRIES = 1000
"""How many values a list takes at most."""


@dataclass(frozen=True)
class Flag:
    """One option: its field's name, kind, annotation and default, and the values that it takes.

    An annotation is a type (int, float, bool, str, Path, Enum), a list of any length (`tuple[int, ...]`) or one of a fixed
    length (`tuple[float, float]`), with `| None` where `none` is allowed. enum: the Enum whose members the values are.
    recorded: its name in records; "" for its own.
    """

    name: str
    kind: Kind
    annotation: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    enum: type[Enum] | None = None
    recorded: str = ""

    @property
    def spelling(self) -> str:
        """The flag on the command line, such as `--memory-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def optional(self) -> bool:
        """Whether `none` is a value."""
        return self.annotation.endswith("| None")

    def read(self, value: Any) -> Any:
        """Turn a text or a TOML value into a checked value of the field's type.

        Raises UserError naming the flag, the value and what it takes.
        """
        value = value.tolist() if hasattr(value, "tolist") else value  # numbers and arrays of numpy and torch
        if value is None or (self.optional and value == "none"):
            if not self.optional:
                raise self._wrong(value)
            return None
        if self.is_list:
            entries = value.split(",") if isinstance(value, str) else [value] if type(value) in (int, float) else value
            if not isinstance(entries, list | tuple | range) or not entries:
                raise self._wrong(value)
            if self.length is not None and len(entries) != self.length:
                raise UserError(f"{self.spelling} {_shown(value)}: it takes {self.length} values, {self.metavar}; {self.help}")
            if len(entries) > ENTRIES:
                raise UserError(f"{self.spelling} {_shown(value)}: it takes {ENTRIES} values at most; these are {len(entries)}")
            return tuple(self._read_one(entry) for entry in entries)
        return self._read_one(value)

    @property
    def is_switch(self) -> bool:
        """Whether the option is given without a value, as `--name` or `--no-name`."""
        return self._entries == ["bool"]

    @property
    def is_list(self) -> bool:
        """Whether the option takes several values, with commas between them."""
        return self.annotation.startswith("tuple[")

    @property
    def length(self) -> int | None:
        """How many values a list takes; None where any number is allowed."""
        entries = self._entries
        return None if not self.is_list or "..." in entries else len(entries)

    @property
    def _entries(self) -> list[str]:
        """The types of a list's values; for any other option, only its own type."""
        kind = self.annotation.removesuffix("| None").strip()
        return [entry.strip() for entry in kind.removeprefix("tuple[").removesuffix("]").split(",")]

    def _read_one(self, value: Any) -> Any:
        if isinstance(value, str):
            value = value.strip()
        if isinstance(value, Enum):
            value = value.value
        try:
            result = value if self.enum else READERS[self._entries[0]](value)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._wrong(value) from error
        if self.choices and str(result) not in self.choices:
            raise unknown(f"value for {self.spelling}", str(value), self.choices, f"it takes {', '.join(self.choices)}")
        if self.enum:
            return next(member for member in self.enum if str(member.value) == str(result))
        if isinstance(result, int | float):
            limit = FURTHEST if isinstance(result, float) else LARGEST
            least = -limit if self.minimum is None else self.minimum
            most = limit if self.maximum is None else self.maximum
            check_range(f"{self.spelling} {_shown(value)}", result, least, most)
        return result

    def _wrong(self, value: Any) -> UserError:
        return UserError(f"{self.spelling} {_shown(value)}: it takes {self.metavar}; {self.help}")

    @property
    def metavar(self) -> str:
        """What the flag takes, in words for `--help`."""
        if self.choices:
            return "|".join(self.choices)
        word = {"int": "N", "float": "NUMBER", "bool": "yes|no", "Path": "PATH"}.get(self._entries[0], "TEXT")
        if self.is_list:
            word = f"{word},..." if self.length is None else ",".join([word] * self.length)
        return f"{word}|none" if self.optional else word


def check_range(given: str, value: float, least: float, most: float) -> None:
    """Raise UserError unless least <= value <= most; `given` is what the user wrote, for the message."""
    for wrong, word, limit in ((value < least, "least", least), (value > most, "most", most)):
        if wrong:
            raise UserError(f"{given}: it must be at {word} {f'{limit:g}' if isinstance(limit, float) else limit}")


@functools.lru_cache(maxsize=1024)
def plain_annotation(text: str) -> str:
    """Return an annotation in its usual spelling; "" unless it is made only of int, float, bool, str, tuple and None."""
    try:
        text = ast.unparse(ast.parse(text, mode="eval"))
    except SyntaxError:
        return ""
    entry = text.removesuffix(" | None")
    entries = entry[6:-1].split(", ") if entry.startswith("tuple[") and entry.endswith("]") else [entry]
    names = set(entries[:-1] if len(entries) == 2 and entries[-1] == "..." else entries)
    return text if len(names) == 1 and names <= {"int", "float", "bool", "str"} else ""


def _shown(value: Any) -> str:
    """Return a value as one types it, short enough for a line."""
    try:
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    except ValueError:  # more digits than Python writes
        text = "of more digits than can be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_bool(value: Any) -> bool:
    words = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in words:
        raise ValueError(value)
    return words[value.lower()]


def _read_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value.replace("_", "")) if isinstance(value, str) else int(value)


def _read_float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(value)
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(value)
    return number


def _read_str(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _read_path(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise TypeError(value)
    return Path(value)


READERS = {"int": _read_int, "float": _read_float, "bool": _read_bool, "str": _read_str, "Path": _read_path}
