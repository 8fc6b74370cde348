"""`--config FILE.toml`: a file that may hold everything that the command line of `eval` or `pretrain` takes.

    protocol = "incontext"
    backbone = ["timm:vit_small_patch14_dinov2", "ckpt:runs/mine"]
    dataset = "voc"
    fractions = [1, 8, 64]

Keys are the options without their dashes; `data-root` and `data_root` are the same. What repeats or has commas on the command
line is a list. The command line overrides the file, a list as a whole. Relative paths start at the current folder, as on the
command line, not at the file's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import typer
from typer.models import ParameterInfo

from densebench import options
from densebench.cli import entry_options
from densebench.errors import UserError, unknown
from densebench.flag import Flag, check_range

LEFT = "densebench.config"  # the key of `context.meta` for the file, and for its keys that are no parameters of the command
TYPES: dict[type, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,)}  # of TOML; others are texts
WORDS = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


class Parameter(NamedTuple):
    """A parameter of a command: its name, the type of one value, whether it takes several, and Typer's description of it."""

    name: str
    type: type
    is_list: bool
    about: ParameterInfo

    def read(self, value: Any) -> Any:
        """Return a TOML value as the command line gives it. Raises ValueError for one of another type."""
        if self.is_list:
            return [self._one(entry) for entry in (value if isinstance(value, list) else [value])]
        if self.type is str and isinstance(value, list) and value:
            return ",".join(self._one(entry) for entry in value)
        return self._one(value)

    def _one(self, value: Any) -> Any:
        if self.type is str and type(value) is int:  # such as one block of --layer
            return str(value)
        if type(value) not in TYPES.get(self.type, (str,)):
            raise ValueError(value)
        return value

    @property
    def takes(self) -> str:
        """The values that it takes, in words."""
        word = WORDS.get(self.type, "a text")
        return f"{word} or a list" if self.is_list or self.type is str else word


def read(context: typer.Context, path: Path | None) -> Path | None:
    """Read the file, so that what it gives replaces the defaults of the command; `given` returns the keys that are left.

    Raises UserError for a file that cannot be read, and for a value of another type than its parameter's.
    """
    if path is None:
        return None
    try:
        table = options.read_toml(path)
        parameters = _parameters(context)
        own = {parameters[key].name: _value(parameters[key], key, table[key], path) for key in table if key in parameters}
    except UserError:
        if context.resilient_parsing:  # the shell asks for completions
            return path
        raise
    context.default_map = {**(context.default_map or {}), **own}
    context.meta[LEFT] = path, {key: value for key, value in table.items() if key not in parameters}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=read,
        is_eager=True,
        help="TOML file of anything that the command line takes, which overrides it. Paths in it start at the current folder.",
    ),
]


def given(context: typer.Context, known: Sequence[Flag]) -> dict[str, Any]:
    """Return the options of a protocol or a method by the name of their field: those of the file, then those of the command line.

    Raises UserError for an option that does not exist, and for a value in the file that an option does not take.
    """
    path, table = context.meta.get(LEFT, (None, {}))
    flags, values = {flag.name: flag for flag in known}, {}
    for key, value in table.items():
        try:
            if key not in flags:
                raise unknown("option", key, [*flags, *_parameters(context)], "the same command with --help lists them")
            values[key] = value if isinstance(value, str | list) or not flags[key].is_list else [value]
            flags[key].read(values[key])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    spellings = [spelling for parameter in context.command.params for spelling in parameter.opts]
    return {**values, **entry_options.parse(context.args, known, spellings)}


def argument(context: typer.Context, name: str, value: str | None) -> str | None:
    """Return an argument, or the file's value of it where an option of a method stands in its place: `--steps 3`."""
    if value is None or not value.startswith("-"):
        return value
    context.args.insert(0, value)
    return (context.default_map or {}).get(name)


def _parameters(context: typer.Context) -> dict[str, Parameter]:
    """Return the parameters of a command that a file may give, by their keys."""
    hints = get_type_hints(context.command.callback, include_extras=True)
    parameters: dict[str, Parameter] = {}
    for parameter in context.command.params:
        hint = hints.get(str(parameter.name))
        if get_origin(hint) is not Annotated or "--config" in parameter.opts or "--help" in parameter.opts:
            continue
        plain, about = get_args(hint)[:2]
        kinds = [each for each in get_args(plain) if each is not type(None)] if type(None) in get_args(plain) else [plain]
        is_list = get_origin(kinds[0]) is list
        entry = Parameter(str(parameter.name), get_args(kinds[0])[0] if is_list else kinds[0], is_list, about)
        parameters |= {spelling.lstrip("-").replace("-", "_"): entry for spelling in parameter.opts if spelling[1:2] != ""}
    return parameters


def _value(parameter: Parameter, key: str, value: Any, path: Path) -> Any:
    try:
        result = parameter.read(value)
    except ValueError as error:
        text = json.dumps(value, ensure_ascii=False, default=str)
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise UserError(f"{path}: {key} = {shown}: it takes {parameter.takes}. {parameter.about.help}") from error
    least, most = getattr(parameter.about, "min", None), getattr(parameter.about, "max", None)
    if parameter.type is int:
        check_range(f"{path}: {key} = {value}", result, -options.LARGEST if least is None else least, most or 2**63 - 1)
    return result
