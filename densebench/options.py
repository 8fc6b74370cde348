"""Options: the fields of a frozen dataclass, seen as command-line flags, as TOML and as the digest of what a number means.

A field is declared as one of three kinds:

- `setting`: changes what the number means; part of the digest by which results are compared;
- `axis`: swept; every score carries its value;
- `runtime`: how the work is done; must not change the number, and is only recorded.

Flags can also be read from a source file without importing it, so that `--help` answers at once.
"""

from __future__ import annotations

import ast
import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from densebench.errors import UserError, unknown

Kind = Literal["setting", "axis", "runtime"]
Options = TypeVar("Options")
LARGEST, FURTHEST = 2**31 - 1, 1e30
"""The largest absolute values of a whole number and of any other, where the declaration gives no limit."""
ENTRIES = 1000
"""How many values a list takes at most."""


def setting(
    default: Any, help: str, *, choices: tuple[str, ...] = (), minimum: float | None = None, maximum: float | None = None
) -> Any:
    """Declare a field that changes what a number means."""
    return _field("setting", default, help, choices, minimum, maximum)


def axis(
    default: Any, help: str, *, choices: tuple[str, ...] = (), minimum: float | None = None, maximum: float | None = None
) -> Any:
    """Declare a field that is swept, so that every score carries its value."""
    return _field("axis", default, help, choices, minimum, maximum)


def runtime(
    default: Any, help: str, *, choices: tuple[str, ...] = (), minimum: float | None = None, maximum: float | None = None
) -> Any:
    """Declare a field that must not change any number."""
    return _field("runtime", default, help, choices, minimum, maximum)


def _field(kind: Kind, default: Any, help: str, choices: tuple[str, ...], minimum: float | None, maximum: float | None) -> Any:
    metadata = {"kind": kind, "help": help, "choices": choices, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Flag:
    """One option: its field's name, kind and annotation (as written), its default, and what values it takes.

    An annotation is a type (`int`), a list of any length (`tuple[int, ...]`) or one of a fixed length (`tuple[float, float]`).
    """

    name: str
    kind: Kind
    annotation: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

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
        if value is None or (self.optional and value == "none"):
            if not self.optional:
                raise self._wrong(value)
            return None
        if self.is_list:
            entries = value.split(",") if isinstance(value, str) else value
            if not isinstance(entries, list | tuple) or not entries:
                raise self._wrong(value)
            if self.length is not None and len(entries) != self.length:
                raise UserError(f"{self.spelling} {_shown(value)}: it takes {self.length} values, {self.metavar}; {self.help}")
            if len(entries) > ENTRIES:
                raise UserError(f"{self.spelling} {_shown(value)}: it takes {ENTRIES} values at most; these are {len(entries)}")
            return tuple(self._one(entry) for entry in entries)
        return self._one(value)

    @property
    def is_list(self) -> bool:
        """Whether the option takes several values, with commas between them."""
        return self.annotation.startswith("tuple[")

    @property
    def length(self) -> int | None:
        """How many values a list takes; None where any number is right."""
        entries = self._entries
        return None if not self.is_list or "..." in entries else len(entries)

    @property
    def _entries(self) -> list[str]:
        """The types of a list's values; for any other option, only its own type."""
        kind = self.annotation.removesuffix("| None").strip()
        return [entry.strip() for entry in kind.removeprefix("tuple[").removesuffix("]").split(",")]

    def _one(self, value: Any) -> Any:
        if isinstance(value, str):
            value = value.strip()
        try:
            result = _READERS[self._entries[0]](value)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._wrong(value) from error
        if self.choices and result not in self.choices:
            raise unknown(f"value for {self.spelling}", str(value), self.choices, f"it takes {', '.join(self.choices)}")
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
        word = {"int": "N", "float": "NUMBER", "bool": "yes|no", "str": "TEXT"}.get(self._entries[0], "TEXT")
        if self.is_list:
            word = f"{word},..." if self.length is None else ",".join([word] * self.length)
        return f"{word}|none" if self.optional else word


def check_range(given: str, value: float, least: float, most: float) -> None:
    """Raise UserError where a number is not between the two, both included; `given` is what the user wrote."""
    for wrong, word, limit in ((value < least, "least", least), (value > most, "most", most)):
        if wrong:
            raise UserError(f"{given}: it must be at {word} {f'{limit:g}' if isinstance(limit, float) else limit}")


def check_run(seed: int | None, limit: int | None) -> None:
    """Raise UserError for a seed or a limit on images that no run can have."""
    check_range(f"--seed {seed}", 0 if seed is None else seed, 0, 2**63 - 1)
    check_range(f"--limit {limit}", 1 if limit is None else limit, 1, LARGEST)


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
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(value)
    return number


def _read_str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


_READERS = {"int": _read_int, "float": _read_float, "bool": _read_bool, "str": _read_str}


def flags(options: type) -> list[Flag]:
    """The flags of a dataclass, in the order of its fields."""
    found = []
    for field in dataclasses.fields(options):
        if "kind" in field.metadata:
            annotation = field.type.__name__ if type(field.type) is type else str(field.type)
            found.append(Flag(field.name, annotation=annotation, default=field.default, **field.metadata))
    return found


def flags_in_source(node: ast.ClassDef) -> list[Flag]:
    """The flags that a class declares, read from its syntax tree: nothing is imported."""
    found = []
    for line in node.body:
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.value, ast.Call) and isinstance(line.target, ast.Name)):
            continue
        called = line.value.func
        kind = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if kind in ("setting", "axis", "runtime"):
            default, text = (ast.literal_eval(argument) for argument in line.value.args)
            more = {word.arg: ast.literal_eval(word.value) for word in line.value.keywords if word.arg}
            annotation = ast.unparse(line.annotation)
            found.append(Flag(line.target.id, kind, annotation, default, text, **more))  # type: ignore[arg-type]
    return found


def build(options: type[Options], preset: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
    """Make the options: the defaults, then the preset, then what the user gave (texts or values), each checked.

    Raises UserError for an unknown name or a value that the flag does not take.
    """
    known = {flag.name: flag for flag in flags(options)}
    for name in given:
        if name not in known:
            raise unknown("option", name, known, f"there are {', '.join(known)}")
    values = {**preset, **given}
    return options(**{name: known[name].read(value) for name, value in values.items()})


def select(options: Any, kind: Kind) -> dict[str, Any]:
    """The values of one kind of field, as JSON values."""
    found = {flag.name: getattr(options, flag.name) for flag in flags(type(options)) if flag.kind == kind}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def read_toml(path: Path) -> dict[str, Any]:
    """Read options from a TOML file; names may be written with dashes or underscores.

    Raises UserError where the file is missing or is not TOML.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a TOML file of options") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    return {name.replace("-", "_"): value for name, value in table.items()}
