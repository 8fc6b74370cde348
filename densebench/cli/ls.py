"""`densebench ls`: the names of methods, protocols, data sets, backbones and tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from densebench import catalog
from densebench.cli import completing
from densebench.console import warn
from densebench.errors import unknown
from densebench.results.terminal import wrapped

KINDS = ("methods", "protocols", "datasets", "backbones", "tables")


def ls(
    kind: Annotated[
        str | None,
        typer.Argument(metavar=f"[{'|'.join(KINDS)}]", help="List only these.", autocompletion=completing.words(*KINDS)),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List methods, protocols, data sets, kinds of backbone and tables of papers.

    Those that cannot be read are named on stderr, a line each.
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS, f"there are {', '.join(KINDS)}")
    rows_by_kind = {name: _rows(name) for name in ([kind] if kind else KINDS)}
    if as_json:
        print(json.dumps(rows_by_kind))
        return
    for name, rows in rows_by_kind.items():
        print(f"{name}:" if rows else f"{name}: none yet")
        presets = [f" (presets: {', '.join(row['presets'])})" if row.get("presets") else "" for row in rows]
        for line in listed((row["name"], row["title"] + more) for row, more in zip(rows, presets, strict=True)):
            print(line)


def listed(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines of a list of names and explanations; on a terminal, long lines are broken between words."""
    entries = list(entries)
    column = max((len(name) for name, _ in entries), default=0)
    lines = []
    for name, text in entries:
        first, *rest = wrapped(text, column + 4)
        lines += [f"  {name:<{column}}  {first}", *(f"{'':{column + 4}}{line}" for line in rest)]
    return lines


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind == "datasets":
        from densebench.datasets.catalog import titles

        return [{"name": name, "title": title} for name, title in titles().items()]
    if kind == "backbones":
        from densebench.backbones.sources import sources

        return [{"name": name, "title": title} for name, title in sources().items()]
    if kind == "tables":
        from densebench.tables.shipped import shipped

        return [{"name": name, "title": title} for name, title in shipped().items()]
    entries, broken = catalog.scan("methods" if kind == "methods" else "protocols")
    for name, problem in broken.items():
        warn(f"{kind.removesuffix('s')} {name} is left out: {problem}")
    return [{"name": entry.name, "title": entry.title, "presets": list(entry.all_presets)} for entry in entries.values()]
