"""`densebench show`: one record for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from densebench.cli import completing


def show(
    record: Annotated[
        str,
        typer.Argument(
            metavar="RECORD",
            help="Its id or a unique prefix of it, the name of its backbone, or its file.",
            autocompletion=completing.recorded_ids,
        ),
    ],
    results: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A folder whose records/ are searched, results if not given; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print one record: what was measured, settings that differ from the preset, scores, classes, costs, the command."""
    from densebench.results import sheet
    from densebench.results.showing import show as shown

    found = shown(record, results or [Path("results")])
    if as_json:
        print(json.dumps(found.json(), ensure_ascii=False))
    else:
        sheet.show(found.sections())
