"""The options of a protocol on the command line: `--neighbours 30`, `--neighbours=30`, `--standardise`, `--no-standardise`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from densebench.errors import UserError, unknown
from densebench.options import Flag

TITLES = {
    "axis": "Axes (swept; every score carries its value)",
    "setting": "Settings (change what the number means)",
    "runtime": "Runtime (changes no number)",
}


def parse(arguments: Sequence[str], known: Iterable[Flag], others: Iterable[str]) -> dict[str, str]:
    """Read the options that the command itself does not know. `others` are those that it does, for did-you-mean.

    Raises UserError for a word that is no option, an option that does not exist, or one without its value.
    """
    by_spelling = {flag.spelling: flag for flag in known}
    found: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            raise UserError(f"{word!r} is not an option; options start with --, lists are written with commas (1,8,64)")
        flag = by_spelling.get(name) or by_spelling.get(name.replace("--no-", "--", 1))
        if flag is None:
            raise unknown("option", name, [*by_spelling, *others], "the same command with --help lists them")
        if flag.annotation == "bool" and not equals:
            value = "yes" if name == flag.spelling else "no"
        elif not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise UserError(f"{name} has no value: it takes {flag.metavar}; {flag.help}")
        found[flag.name] = value
    return found


def describe(known: Sequence[Flag]) -> str:
    """The flags as help text, by kind."""
    lines = []
    for kind, title in TITLES.items():
        if chosen := [flag for flag in known if flag.kind == kind]:
            lines += ["", f"{title}:"]
            lines += [f"  {flag.spelling} {flag.metavar}\n      {flag.help} [{_shown(flag.default)}]" for flag in chosen]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
