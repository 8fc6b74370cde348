"""`densebench diff`: what differs between two records, and whether their numbers may be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from densebench.cli import completing


def diff(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A record: its id or a unique prefix of it, the name of its backbone, or its file.",
            autocompletion=completing.recorded_ids,
        ),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.", autocompletion=completing.recorded_ids)],
    results: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A folder whose records/ are searched, results if not given; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what differs between two records, and whether their numbers may be compared, or why not.

    The exit status is 0 either way: the answer is no failure.
    """
    from densebench.results import sheet
    from densebench.results.differing import diff as differing

    found = differing(first, second, results or [Path("results")])
    if as_json:
        print(json.dumps(found.json(), ensure_ascii=False))
    else:
        sheet.show(found.sections())
