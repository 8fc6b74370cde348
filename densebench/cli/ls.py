"""`densebench ls`: what there is, by kind."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from densebench import catalog
from densebench.console import warn
from densebench.errors import unknown

KINDS = ("methods", "protocols", "datasets", "backbones")


def ls(
    kind: Annotated[str | None, typer.Argument(metavar="[methods|protocols|datasets|backbones]", help="List only these.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List methods, protocols, data sets and kinds of backbone. Those that cannot be read are named on stderr, a line each."""
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS, f"there are {', '.join(KINDS)}")
    rows_by_kind = {name: _rows(name) for name in ([kind] if kind else KINDS)}
    if as_json:
        print(json.dumps(rows_by_kind))
        return
    for name, rows in rows_by_kind.items():
        print(f"{name}:" if rows else f"{name}: none yet")
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            presets = f" (presets: {', '.join(row['presets'])})" if row.get("presets") else ""
            print(f"  {row['name']:<{width}}  {row['title']}{presets}")


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind == "datasets":
        from densebench.datasets.catalog import titles

        return [{"name": name, "title": title} for name, title in titles().items()]
    if kind == "backbones":
        from densebench.backbones.sources import sources

        return [{"name": name, "title": title} for name, title in sources().items()]
    entries, broken = catalog.scan("methods" if kind == "methods" else "protocols")
    for name, problem in broken.items():
        warn(f"{kind.removesuffix('s')} {name} is left out: {problem}")
    return [{"name": entry.name, "title": entry.title, "presets": list(entry.all_presets)} for entry in entries.values()]
