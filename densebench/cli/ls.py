"""`densebench ls`: what there is, by kind. Nothing is imported to find out."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from densebench import catalog
from densebench.errors import unknown

KINDS = ("methods", "protocols", "datasets", "backbones")


def ls(
    kind: Annotated[str | None, typer.Argument(metavar="[methods|protocols|datasets|backbones]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List methods, protocols, data sets and kinds of backbone."""
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS, f"there are {', '.join(KINDS)}")
    found = {name: _rows(name) for name in ([kind] if kind else KINDS)}
    if as_json:
        print(json.dumps(found))
        return
    for name, rows in found.items():
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
    entries = catalog.entries("methods" if kind == "methods" else "protocols").values()
    return [{"name": entry.name, "title": entry.title, "presets": list(entry.all_presets)} for entry in entries]
