"""`densebench merge`: the records and shards of several results folders in one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from densebench.results.merging import Merged


def merge(
    results: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that `densebench eval` wrote; their records/ and shards/.")
    ],
    into: Annotated[Path, typer.Option(metavar="DIR", help="The folder to merge into; it may be one of the others.")],
    prefer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder whose scores count where folders contradict each other.")
    ] = None,
) -> None:
    """Merge records by their ids, and make records of shards; whatever is contradictory or incomplete is named and left out."""
    from densebench.results.merging import merge as merged

    show(merged(*results, into=into, prefer=prefer))


def show(done: Merged) -> None:
    """Print what a merge did. Raises typer.Exit with status 2 where something was left out."""
    from densebench.console import notice, warn

    for line in done.notices:
        notice(line)
    for line in done.problems:
        warn(f"left out: {line}")
    print(done)
    if done.problems:
        raise typer.Exit(2)
