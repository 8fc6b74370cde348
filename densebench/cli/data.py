"""`densebench data`: list, download and verify data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densebench.cli import completing
from densebench.results.terminal import Layout, fitted, terminal_width

if TYPE_CHECKING:
    from densebench.datasets.dataset import Dataset

app = typer.Typer(no_args_is_help=True)

DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", envvar="DENSEBENCH_DATA", help="Where the data sets are, each in its official layout; ./data if not given."
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A name of `densebench data ls`, folder:DIR or ./file.py.", autocompletion=completing.datasets
    ),
]


@app.command("ls")
def ls(
    data_root: DataRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """List the data sets, and which of them are present."""
    from densebench.datasets.catalog import every_dataset

    rows = [_row(dataset) for _, dataset in every_dataset(data_root)]
    if as_json:
        print(json.dumps(rows))
    else:
        _print_table(rows)


@app.command("get")
def get(name: Name, data_root: DataRoot = None) -> None:
    """Download a data set from its official addresses; say what must be fetched by hand."""
    from densebench.console import notice
    from densebench.datasets import load_dataset
    from densebench.datasets.io import download

    dataset = load_dataset(name, data_root)
    by_hand = download.get(dataset)
    for instruction in by_hand:
        print(f"by hand: {instruction}")
    if not dataset.sources:
        notice(f"{name}: nothing to fetch")
    elif not by_hand:
        notice(f"{name}: all there; `densebench data verify {name}` checks it")


@app.command("verify")
def verify(
    name: Name,
    data_root: DataRoot = None,
    full: Annotated[bool, typer.Option("--full", help="Open every image and label map, not a sample.")] = False,
) -> None:
    """Count files, open images and label maps and check label values. Prints one problem a line; status 1 if there is any."""
    from densebench.console import notice
    from densebench.datasets import load_dataset

    problems = load_dataset(name, data_root).verify(full)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)
    notice(f"{name}: nothing wrong found")


def _row(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "title": dataset.title,
        "classes": len(dataset.classes),
        "splits": list(dataset.splits),
        "train_split": dataset.train_split,
        "val_split": dataset.val_split,
        "present": dataset.state(),
        "licence": dataset.licence,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print the data sets as a table that fits the terminal, or in whole lines where stdout is none."""
    columns = ["name", "title", "classes", "splits", "here", "licence"]
    cells = [
        [row["name"], row["title"], str(row["classes"]), ", ".join(row["splits"]), row["present"], row["licence"]] for row in rows
    ]
    width = terminal_width()
    if width is None:
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for line in [columns, *cells]:
            print("  ".join(f"{cell:<{size}}" for cell, size in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console

    layout = Layout(labels=columns, texts={"title": 16, "splits": 10, "licence": 14}, spare=("title", "classes"))
    [table], _ = fitted(columns, [(line, [False] * len(line)) for line in cells], layout, width)
    Console().print(table)
