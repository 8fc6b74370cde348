"""`densebench records`: the records of a results folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from densebench.cli import completing
from densebench.errors import UserError, unknown

app = typer.Typer(no_args_is_help=True)
STATES = ("running", "stopped", "complete", "failed")
Results = Annotated[Path, typer.Option(metavar="DIR", help="The folder whose records/ are read.")]


@app.command("ls")
def ls(
    status: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(STATES),
            help="List only records of this status; stopped: killed.",
            autocompletion=completing.words(*STATES),
        ),
    ] = None,
    results: Results = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List records, the oldest first."""
    if status is not None and status not in STATES:
        raise unknown("status", status, STATES, f"there are {', '.join(STATES)}")

    from densebench.console import warn
    from densebench.results.record_keeping import scan

    scanned = scan(results)
    for problem in scanned.broken.values():
        warn(f"left out: {problem}")
    rows = [row for row in map(_row, scanned.records) if status in (None, row["status"])]
    if as_json:
        print(json.dumps(rows))
    elif not rows:
        print(f"no {status} record in {results}" if status else f"no record in {results}")
    else:
        _print(rows)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    from densebench.results.record_keeping import state

    backbone, protocol, dataset = record["backbone"], record["protocol"], record["dataset"]
    return {
        "id": record["id"],
        "status": state(record),
        "backbone": backbone.get("name", backbone["spec"]),
        "protocol": f"{protocol['name']}/{protocol['preset']}",
        "dataset": f"{dataset['name']} {dataset['split']}" + (f" (limit {dataset['limit']})" if dataset["limit"] else ""),
        "scores": len(record["scores"]),
        "started": record["run"].get("started"),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    lines = [list(rows[0]), *([" ".join(str(value or "").split()) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


@app.command("rm")
def rm(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID...", help="Ids, or unique prefixes of ids.", autocompletion=completing.recorded_ids),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Remove all records that failed.")] = False,
    results: Results = Path("results"),
) -> None:
    """Remove records and their pictures."""
    if not ids and not failed:
        raise UserError("name the records to remove, or give --failed; `densebench records ls` lists them")

    from densebench.results.record_keeping import matching, remove, scan

    paths = matching(results, ids or [])
    if failed:
        failed_ids = [record["id"] for record in scan(results).records if record["status"] == "failed"]
        paths = list(dict.fromkeys([*paths, *matching(results, failed_ids)]))
    if not paths:
        print(f"no failed record in {results}")
        return
    remove(results, paths)
    print(f"removed {', '.join(path.stem for path in paths)} from {results}")
