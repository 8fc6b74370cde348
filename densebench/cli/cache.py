"""`densebench cache`: the space that cached features take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

app = typer.Typer(no_args_is_help=True)


@app.command("ls")
def ls() -> None:
    """List what is cached, with sizes."""
    from densebench.files.atomic import cache_root
    from densebench.files.cache import usage

    folders = usage(cache_root())
    for entry in folders:
        print(f"{entry.bytes / 2**20:9.1f} MiB  {entry.folder.name[:8]}  {_what(entry.about)}")
    print(f"{sum(entry.bytes for entry in folders) / 2**20:9.1f} MiB  in all, under {cache_root()}")


@app.command("clear")
def clear() -> None:
    """Remove all cached features that no run uses now; the next run computes them again."""
    from densebench.console import warn
    from densebench.files import cache
    from densebench.files.atomic import cache_root

    cleared = cache.clear(cache_root())
    print(f"freed {cleared.bytes / 2**20:.1f} MiB under {cache_root()}")
    if cleared.in_use:
        warn(f"in use: {_listed(cleared.in_use)} stays; clear again when the run has ended")
    if cleared.unmarked:
        warn(f"not marked as densebench's: {_listed(cleared.unmarked)} stays; remove by hand what an earlier version left")


def _what(about: dict[str, Any]) -> str:
    """Return what a folder holds, in words."""
    view, spec = about.get("view"), about.get("spec", "work in progress" if about else "unknown")
    size = (view.get("size") or "native") if isinstance(view, dict) and view else ""
    return " ".join(f"{spec}  {size}".split("\n"))


def _listed(folders: list[Path]) -> str:
    more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
    return f"{folders[0]}{more}"
