"""`densebench report`: a results folder as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densebench.cli import completing
from densebench.cli.optional_file import published_of


def report(
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="A folder whose records/ and pictures/ are read, results if not given; repeatable, records are merged.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("report.html"),
    published: Annotated[
        str | None,
        typer.Option(
            "--published", metavar="[FILE]", help="Add tables of published numbers; those of FILE too, a CSV of the same columns."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PAPER:TABLE",
            help="Add a paper's table, such as neco:8, with what was measured beside each number; repeatable.",
            autocompletion=completing.published_tables,
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page: profiles, tables with costs, plots, classes and pictures of several backbones."""
    from densebench.console import notice
    from densebench.files.atomic import write_text
    from densebench.results.report import report as render

    read = results or [Path("results")]
    text = render(read, published=published_of(published), against=against or (), beside=output)
    write_text(output, text)
    notice(f"{len(text.encode()) / 2**20:.1f} MiB")
    print(output)
