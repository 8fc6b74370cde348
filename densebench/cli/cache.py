"""`densebench cache`: the space that cached features take."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from densebench.console import notice, warn
from densebench.errors import UserError
from densebench.files import cache
from densebench.files.atomic import cache_root
from densebench.files.cache import Usage

app = typer.Typer(no_args_is_help=True)

SPANS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@app.command("ls")
def ls(
    sort: Annotated[str, typer.Option(metavar="size|age", help="The largest first, or the least recently used first.")] = "size",
) -> None:
    """List what is cached: size, folder, backbone and view, when it was last used, and by which protocols."""
    if sort not in ("size", "age"):
        raise UserError(f"--sort {sort}: it is size or age")
    folders = sorted(cache.usage(cache_root()), key=lambda entry: -entry.bytes if sort == "size" else entry.used)
    for entry in folders:
        print(_line(entry))
    print(f"{sum(entry.bytes for entry in folders) / 2**20:9.1f} MiB  in all, under {cache_root()}")


@app.command("clear")
def clear(
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what this protocol has used, and no other one.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what this data set has used, and no other one.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(metavar="SPEC", help="Only features of this backbone.")] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what was last used so long ago: 30d, 12h, 2w, 90m.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove cached features that no run uses now; the next run computes them again.

    Options say which, and all of them must hold. Without any, everything is removed.
    """
    before = None if older_than is None else time.time() - _seconds(older_than)
    users = {name: value for name, value in (("protocol", protocol), ("dataset", dataset)) if value is not None}

    def chosen(entry: Usage) -> bool:
        if before is not None and entry.used >= before:
            return False
        if backbone is not None and entry.about.get("spec") != backbone:
            return False
        if any(value not in entry.by(name) for name, value in users.items()):
            return False
        others = [other for name, value in users.items() for other in entry.by(name) if other != value]
        if others:
            notice(f"also used by {', '.join(others)}: {entry.folder} stays")
        return not others

    if dry_run:
        wanted = [entry for entry in cache.usage(cache_root()) if chosen(entry)]
        for entry in wanted:
            print(_line(entry))
        print(f"would free {sum(entry.bytes for entry in wanted) / 2**20:.1f} MiB under {cache_root()}")
        return
    cleared = cache.clear(cache_root(), chosen)
    print(f"freed {cleared.bytes / 2**20:.1f} MiB under {cache_root()}")
    if cleared.in_use:
        warn(f"in use: {_listed(cleared.in_use)} stays; clear again when the run has ended")
    if cleared.unmarked:
        warn(f"not marked as densebench's: {_listed(cleared.unmarked)} stays; remove by hand what an earlier version left")


def _seconds(text: str) -> float:
    """Return the seconds of a time such as 30d. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([mhdw])", text)
    if match is None:
        raise UserError(f"--older-than {text}: it takes a number and a unit, such as 30d, 12h, 2w or 90m")
    return float(match[1]) * SPANS[match[2]]


def _line(entry: Usage) -> str:
    """Return what a folder takes and holds, when it was last used and by which protocols, in one line."""
    users = ",".join(entry.by("protocol"))
    parts = (f"{entry.bytes / 2**20:9.1f} MiB", entry.folder.name[:8], _what(entry.about), f"used {_ago(entry.used)}", users)
    return "  ".join(part for part in parts if part)


def _ago(when: float) -> str:
    """Return how long ago something was, in its largest whole unit."""
    seconds = max(0.0, time.time() - when)
    for name, span in (("d", SPANS["d"]), ("h", SPANS["h"]), ("m", SPANS["m"])):
        if seconds >= span:
            return f"{int(seconds // span)}{name} ago"
    return "now"


def _what(about: dict[str, Any]) -> str:
    """Return what a folder holds, in words."""
    view, spec = about.get("view"), about.get("spec", "work in progress" if about else "unknown")
    named = view if isinstance(view, dict) and view else {}
    size = (named.get("size") or "native") if named else ""
    augmented = f"augmented (epoch {named.get('epoch')})" if named.get("augment") else ""
    return " ".join(f"{spec}  {size} {augmented}".strip().split("\n"))


def _listed(folders: list[Path]) -> str:
    more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
    return f"{folders[0]}{more}"
