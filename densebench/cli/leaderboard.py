"""`densebench leaderboard`: records as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densebench.errors import UserError


def leaderboard(
    results: Annotated[Path, typer.Option(metavar="DIR", help="The folder whose records/ are read.")] = Path("results"),
    format: Annotated[str, typer.Option(metavar="md|csv|tex|html", help="Format; only csv has every metric and variant.")] = "md",
    published: Annotated[bool, typer.Option("--published", help="Add tables of published numbers.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write instead of printing.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with status 1 if FILE is out of date.")] = False,
) -> None:
    """Print comparable records as tables: one table a group, best first; a rank is 1 + the number that are separably better."""
    if check and output is None:
        raise UserError("--check compares with a file: give --output FILE")

    from densebench.files.atomic import write_text
    from densebench.results.leaderboard import leaderboard as read
    from densebench.results.leaderboard import render

    text = render(read(results, published=published), format)
    if output is None:
        print(text, end="")
    elif check:
        if not output.is_file() or output.read_bytes() != text.encode():
            print(f"{output} is not what the records of {results} give; write it again without --check")
            raise typer.Exit(1)
    else:
        write_text(output, text)
