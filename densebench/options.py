"""Options: the fields of a frozen dataclass, seen as command-line flags, as TOML and as the digest of what a number means.

A field is declared as one of three kinds:

- `setting`: changes what the number means; part of the digest by which results are compared;
- `axis`: swept; every score carries its value;
- `runtime`: how the work is done; must not change the number, and is only recorded.

Its type is int, float, bool, str, a Path, an Enum, a Literal of texts or numbers, a tuple of these, or one of them or None.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import tomllib
import types
from collections.abc import Mapping
from enum import Enum
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from densebench.console import one_line
from densebench.errors import UserError, unknown
from densebench.flag import LARGEST, READERS, Flag, Kind, check_range, plain_annotation

Options = TypeVar("Options")


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    recorded: str = "",
) -> Any:
    """Declare a field that changes what a number means.

    recorded: the name that records give to it, where it is another one: a field may be renamed, and old records still compare.
    """
    return _field("setting", default, help, choices, minimum, maximum, recorded)


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


def _field(
    kind: Kind,
    default: Any,
    help: str,
    choices: tuple[str, ...],
    minimum: float | None,
    maximum: float | None,
    recorded: str = "",
) -> Any:
    metadata = {"kind": kind, "help": help, "choices": choices, "minimum": minimum, "maximum": maximum, "recorded": recorded}
    return dataclasses.field(default=default, metadata=metadata)


def flags(options: type) -> list[Flag]:
    """Return the options of a dataclass, in the order of its fields.

    A field that only gives an inherited option another default, `neighbours: int = 5`, keeps its kind, help and limits.
    Raises UserError for a field whose annotation is no type of an option.
    """
    _check_declared(options)
    return [
        _flag(options, field, declared) for field in dataclasses.fields(options) if (declared := _declaration(options, field))
    ]


def _declaration(options: type, field: dataclasses.Field[Any]) -> Mapping[str, Any]:
    """Return what setting, axis or runtime recorded for a field, here or in the nearest base; {} where it is no option."""
    fields = [vars(parent).get("__dataclass_fields__", {}).get(field.name) for parent in options.__mro__]
    return next((each.metadata for each in (field, *fields) if each is not None and "kind" in each.metadata), {})


def _flag(options: type, field: dataclasses.Field[Any], declared: Mapping[str, Any]) -> Flag:
    owner = next(parent for parent in options.__mro__ if field.name in inspect.get_annotations(parent))
    annotation = field.type
    if isinstance(annotation, str) and (text := plain_annotation(annotation)):
        return Flag(field.name, annotation=text, default=field.default, **declared)
    try:
        if isinstance(annotation, str):  # as `from __future__ import annotations` leaves it
            annotation = eval(annotation, vars(sys.modules[owner.__module__]), dict(vars(owner)))
        text, choices, enum = _described(annotation)
    except Exception as error:
        raise UserError(
            f"{owner.__name__}.{field.name}: {field.type} is no type of an option; use int, float, bool, str, Path, an Enum, a "
            "Literal, or a tuple of one of them"
        ) from error
    declared = {**declared, "choices": declared["choices"] or choices}
    return Flag(field.name, annotation=text, default=field.default, enum=enum, **declared)


def _check_declared(options: type) -> None:
    """Raise UserError for an option of a class that is no dataclass, and for a default without a type: neither has an effect."""
    known = {field.name for field in dataclasses.fields(options)}
    for parent in options.__mro__:
        declared = inspect.get_annotations(parent) if "__dataclass_fields__" in vars(parent) else {}
        for name, value in vars(parent).items():
            if name not in declared and (name in known or isinstance(value, dataclasses.Field)) and not callable(value):
                raise UserError(
                    f"{parent.__name__}.{name} has no effect: write @dataclass(frozen=True) above class {parent.__name__}, and "
                    f"{name}: TYPE = setting(...)"
                )


def _described(annotation: Any) -> tuple[str, tuple[str, ...], type[Enum] | None]:
    """Return an annotation's text, the choices of a Literal or an Enum, and the Enum. Raises for one that no option can have."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        [inner] = [argument for argument in arguments if argument is not types.NoneType]
        text, choices, enum = _described(inner)
        return f"{text} | None", choices, enum
    if origin is Literal:
        values = [value for value in arguments if value is not None]
        [kind] = {type(value).__name__ for value in values} & {"str", "int"} or {""}
        return f"{kind} | None" if None in arguments else kind, tuple(map(str, values)), None
    if origin is tuple:
        described = [_described(argument) for argument in arguments if argument is not ...]
        [(text, choices, enum)] = {*described}
        return f"tuple[{', '.join('...' if argument is ... else text for argument in arguments)}]", choices, enum
    if issubclass(annotation, Enum):
        return "Enum", tuple(str(member.value) for member in annotation), annotation
    if annotation.__name__ not in READERS:
        raise TypeError(annotation)
    return annotation.__name__, (), None


TEXT, PATH, WHOLE, SWITCH = (str,), (str, Path), (int, Integral), (bool,)
"""The types of arguments that `check_types` takes."""
WORDS: Mapping[tuple[type, ...], str] = {
    (*SWITCH, *PATH): "True, False or a path, as a text or a Path",
    TEXT: "a text",
    PATH: "a path, as a text or a Path",
    WHOLE: "a whole number",
    SWITCH: "True or False",
}


def check_types(types: tuple[type, ...], **given: Any) -> None:
    """Raise UserError for the first argument of another type than those, TEXT, PATH, WHOLE or SWITCH; None passes.

    Without it a wrong argument would end in an error of some library, or a "no" would mean yes.
    """
    for name, value in given.items():
        if value is not None and (not isinstance(value, types) or (types == WHOLE and isinstance(value, bool))):
            shown = one_line(repr(value))
            raise UserError(f"{name}={shown if len(shown) <= 60 else f'{shown[:57]}...'}: give {WORDS[types]}")


def check_run(seed: int | None, limit: int | None) -> None:
    """Raise UserError for a seed below 0 or a limit on images below 1, and for what is no such number; None passes."""
    check_types(WHOLE, seed=seed, limit=limit)
    check_range(f"--seed {seed}", 0 if seed is None else seed, 0, 2**63 - 1)
    check_range(f"--limit {limit}", 1 if limit is None else limit, 1, LARGEST)


def build(options: type[Options], preset: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
    """Return the options: the defaults, then the preset, then what the user gave (texts or values), each checked.

    Raises UserError for an unknown name or a value that the flag does not take.
    """
    known = {flag.name: flag for flag in flags(options)}
    for name in given:
        if name not in known:
            raise unknown("option", name, known, f"there are {', '.join(known)}")
    values = {**preset, **given}
    return options(**{name: known[name].read(value) for name, value in values.items()})


def checked(configured: Options, **changed: Any) -> Options:
    """Return an object of options with every value read and checked as `build` does, after changing some of them.

    Raises UserError for a value that its flag does not take.
    """
    values = {flag.name: changed.get(flag.name, getattr(configured, flag.name)) for flag in flags(type(configured))}
    read = {flag.name: flag.read(values[flag.name]) for flag in flags(type(configured))}
    return dataclasses.replace(configured, **read)  # type: ignore[type-var]


def select(options: Any, kind: Kind) -> dict[str, Any]:
    """Return the values of one kind of option by the names that records give to them, as JSON values."""
    chosen = [flag for flag in flags(type(options)) if flag.kind == kind]
    return {flag.recorded or flag.name: _as_json(getattr(options, flag.name)) for flag in chosen}


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(entry) for entry in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def read_toml(path: Path) -> dict[str, Any]:
    """Return the options in a TOML file; names may be written with dashes or underscores.

    Raises UserError where the file is missing, is not TOML, or gives an option in both spellings.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a TOML file of options") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    for name in table:
        if "-" in name and name.replace("-", "_") in table:
            raise UserError(f"{path} gives {name} twice, with dashes and with underscores; leave one out")
    return {name.replace("-", "_"): value for name, value in table.items()}
