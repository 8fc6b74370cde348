"""What the shell offers after a tab: names of protocols, presets, methods, data sets, backbones, formats, and words of options.

Nothing heavy is imported, and whatever goes wrong offers nothing: a line on stderr would land in what the user is typing.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand

from densebench import catalog
from densebench.flag import Flag

Offer = Callable[[typer.Context, str], list[tuple[str, str]]]
Names = Iterable[tuple[str, str]]
"""Names with a word of explanation, which zsh and fish show."""
SPECIAL = re.compile(r"([^\w@%+=:.,/-])")  # characters that bash needs to be escaped


class Item(NamedTuple):
    """One completion, as Typer's shells read it."""

    value: str
    help: str | None = None
    type: str = "plain"


def _offer(names: Callable[[typer.Context], Names], *, several: bool = False) -> Offer:
    """Return a function for Typer's `autocompletion` that offers names, or with `several` the next name of a list with commas."""

    def offer(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        before, comma, _ = incomplete.rpartition(",") if several else ("", "", incomplete)
        offered = dict(quietly(lambda: list(names(ctx)), []))
        return [(before + comma + name, _short(text)) for name, text in offered.items()]

    return offer


def quietly(make: Callable[[], Any], otherwise: Any) -> Any:
    """Return what a function returns, without printing anything; `otherwise` where it raises any error."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), contextlib.suppress(Exception):
        return make()
    return otherwise


def _short(text: str) -> str:
    """Return an explanation on one line of a terminal: to fish, a line break begins another name."""
    return textwrap.shorten(text, 60, placeholder=" ...")


def words(*names: str) -> Offer:
    """Return a function for Typer's `autocompletion` that offers these words."""
    return _offer(lambda ctx: [(name, "") for name in names])


def _titles(kind: catalog.Kind) -> Names:
    return [(name, entry.title) for name, entry in catalog.entries(kind).items()]


def _presets(ctx: typer.Context) -> Names:
    """Return the presets of the protocols or the method on the line."""
    return [(preset, f"of {entry.name}") for entry in _entries(ctx) for preset in entry.all_presets]


def _datasets(ctx: typer.Context) -> Names:
    from densebench.datasets.catalog import FOLDERS, titles

    return [*titles().items(), *((form.removesuffix("DIR"), kind) for kind, form in FOLDERS.items())]


def _backbones(ctx: typer.Context) -> Names:
    """Return the runs under runs/, and how specs of every kind begin."""
    from densebench.backbones.sources import SOURCES

    runs = [(f"ckpt:{path.parent}", "a run") for path in sorted(Path("runs").glob("*/checkpoint.json"))]
    return [*runs, *((f"{name}:", source.title) for name, source in SOURCES.items() if source.form.startswith(f"{name}:"))]


def _tables(ctx: typer.Context) -> Names:
    from densebench.tables.shipped import shipped

    return shipped().items()


def _recorded(name: Callable[[dict[str, Any]], str]) -> Offer:
    """Return a function for Typer's `autocompletion` that offers a name of each record in the results folders on the line."""

    def names(ctx: typer.Context) -> Names:
        given = ctx.params.get("results") or "results"
        folders = given if isinstance(given, list) else [given]
        files = [path for folder in folders for path in sorted(Path(folder, "records").glob("*.json"))]
        found = (quietly(functools.partial(_read, path, name), "") for path in files)
        return [(_escaped(name), "") for name in found if name]

    return _offer(names)


def _read(path: Path, name: Callable[[dict[str, Any]], str]) -> str:
    return name(json.loads(path.read_bytes()))


def _escaped(name: str) -> str:
    """Return a name as bash reads it in a command; other shells quote what they insert themselves."""
    return SPECIAL.sub(r"\\\1", name) if os.environ.get("_DENSEBENCH_COMPLETE") == "complete_bash" else name


protocols = _offer(lambda ctx: _titles("protocols"), several=True)
presets = _offer(_presets, several=True)
methods = _offer(lambda ctx: _titles("methods"))
datasets, backbones, tables = _offer(_datasets), _offer(_backbones), _offer(_tables)
recorded_ids = _recorded(lambda record: record["id"])
recorded_datasets = _recorded(lambda record: record["dataset"]["name"])
recorded_protocols = _recorded(lambda record: record["protocol"]["name"])
recorded_backbones = _recorded(lambda record: record["backbone"].get("name", record["backbone"]["spec"]))


def _entries(ctx: Any) -> list[catalog.Entry]:
    """Return the entries that are named on the line: the protocols, or the method."""
    kind: catalog.Kind = "methods" if "method" in ctx.params else "protocols"
    names = ctx.params.get("protocol")
    if kind == "methods":  # it is still among the other words where the line ends in an option without its value
        names = ctx.params["method"] or next((word for word in ctx.args if not word.startswith("-")), None)
    wanted = names.split(",") if isinstance(names, str) else []
    found = [quietly(functools.partial(catalog.find, kind, name.strip()), None) for name in wanted]
    return [entry for entry in found if entry is not None]


class EntryCommand(TyperCommand):
    """A command that also has the options of the protocols or the method that it names."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Offer the command's own options and those of what is named; after one of these, the words that it takes."""
        flags = {flag.spelling: flag for flag in quietly(lambda: list(_flags(ctx)), [])}
        last = flags.get(ctx.args[-1]) if ctx.args else None
        if last is not None and not last.is_switch:
            return [Item(word) for word in _words(last, incomplete)]
        own = [Item(name, _short(flag.help)) for name, flag in flags.items() if incomplete and name.startswith(incomplete)]
        own += [
            Item(f"--no-{name[2:]}", _short(flag.help))
            for name, flag in flags.items()
            if flag.is_switch and incomplete.startswith("--no-") and f"--no-{name[2:]}".startswith(incomplete)
        ]
        return [*super().shell_complete(ctx, incomplete), *own]


def _flags(ctx: Any) -> Iterator[Flag]:
    chosen = (ctx.params.get("preset") or "").split(",")
    for index, entry in enumerate(_entries(ctx)):
        yield from entry.part(chosen[index] if index < len(chosen) else None).flags()


def _words(flag: Flag, incomplete: str) -> list[str]:
    before, comma, begun = incomplete.rpartition(",") if flag.is_list else ("", "", incomplete)
    known = [*flag.choices, *(["none"] if flag.optional else [])]
    return [before + comma + word for word in known if word.startswith(begun)]
