"""`densebench merge`: the records and shards of several results folders in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    from densebench.console import notice, warn
    from densebench.results.merging import merge as merged

    done = merged(*results, into=into, prefer=prefer)
    for line in done.notices:
        notice(line)
    for line in done.problems:
        warn(f"left out: {line}")
    print(done)
    if done.problems:
        raise typer.Exit(2)
