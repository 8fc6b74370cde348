"""The options of a protocol or a method on the command line: `--count 3`, `--count=3`, `--deep`, `--no-deep`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from densebench.errors import UserError, unknown
from densebench.options import Flag
from densebench.results.terminal import wrapped

TITLES = {
    "axis": "Axes (swept; every score carries its value)",
    "setting": "Settings (change what the number means)",
    "runtime": "Runtime (changes no number)",
}


def parse(arguments: Sequence[str], known: Iterable[Flag], others: Iterable[str]) -> dict[str, str]:
    """Return the texts given for options of a protocol or a method, by the name of their field.

    others: the options of the command itself, among which a misspelt one is also looked up. Raises UserError for a word that is
    not an option, for an option that does not exist, and for one without a value.
    """
    by_spelling = {flag.spelling: flag for flag in known}
    given: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            raise UserError(f"{word!r} is not an option; options start with --, lists are written with commas (1,8,64)")
        flag = by_spelling.get(name) or by_spelling.get(name.replace("--no-", "--", 1))
        if flag is None:
            raise unknown("option", name, [*by_spelling, *others], "the same command with --help lists them")
        if flag.is_switch and not equals:
            value = "yes" if name == flag.spelling else "no"
        elif not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise UserError(f"{name} has no value: it takes {flag.metavar}; {flag.help}")
        given[flag.name] = value
    return given


def heading(title: str, presets: Sequence[str]) -> str:
    """Return the help text of a protocol or a method above its options: its title and its presets."""
    return "\n".join([*wrapped(title), *wrapped(f"Presets: {', '.join(presets)}")])


def describe(known: Sequence[Flag]) -> str:
    """Return the help text of options, grouped by kind."""
    lines = []
    for kind, title in TITLES.items():
        if chosen := [flag for flag in known if flag.kind == kind]:
            lines += ["", f"{title}:"]
            for flag in chosen:
                texts = wrapped(f"{flag.help} [{_shown(flag.default)}]", 6)
                lines += [f"  {flag.spelling} {flag.metavar}", *(f"      {text}" for text in texts)]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Enum):
        return str(value.value)
    return "none" if value is None else str(value)
