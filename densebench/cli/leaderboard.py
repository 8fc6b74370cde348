"""`densebench leaderboard`: records as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densebench.cli import completing
from densebench.cli.optional_file import published_of
from densebench.errors import UserError

Results = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="A folder whose records/ are read, results if not given; repeatable, records are merged."),
]
Filter = list[str] | None


def leaderboard(
    results: Results = None,
    dataset: Annotated[
        Filter,
        typer.Option(metavar="NAME", help="Show only this data set; repeatable.", autocompletion=completing.recorded_datasets),
    ] = None,
    protocol: Annotated[
        Filter,
        typer.Option(
            metavar="NAME",
            help="Show only this protocol, such as kmeans or kmeans/croc; repeatable.",
            autocompletion=completing.recorded_protocols,
        ),
    ] = None,
    backbone: Annotated[
        Filter,
        typer.Option(
            metavar="NAME",
            help="Show only this backbone, by its name in tables, its spec, or a pattern ('*ViT-S*'); repeatable. "
            "Ranks stay those among all.",
            autocompletion=completing.recorded_backbones,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="md|csv|tex|html",
            help="Format; without it, tables that fit the terminal, or md where there is none. Only csv has every metric.",
            autocompletion=completing.words("md", "csv", "tex", "html"),
        ),
    ] = None,
    costs: Annotated[
        bool, typer.Option("--costs", help="Add what each record cost, by device: minutes, images/s, memory, energy.")
    ] = False,
    published: Annotated[
        str | None,
        typer.Option(
            "--published", metavar="[FILE]", help="Add tables of published numbers; those of FILE too, a CSV of the same columns."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="PAPER:TABLE",
            help="Show a paper's table instead, such as neco:8: published | measured | difference.",
            autocompletion=completing.published_tables,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write instead of printing.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with status 1 if FILE is out of date.")] = False,
) -> None:
    """Print comparable records as tables: one table a group, best first; a rank is 1 + the number that are separably better."""
    if check and output is None:
        raise UserError("--check compares with a file: give --output FILE")

    from densebench.files.atomic import write_text
    from densebench.results.leaderboard import leaderboard as read
    from densebench.results.terminal import terminal_width

    folders = results or [Path("results")]
    chosen = {"dataset": dataset or None, "protocol": protocol or None, "backbone": backbone or None}
    board = read(folders, published=published_of(published), against=against, costs=costs, **chosen)
    if output is None and format is None and terminal_width() is not None:
        from rich.console import Console

        Console().print(board)
        return
    text = board.render("md" if format is None else format, beside=output)
    if output is None:
        print(text, end="")
    elif check:
        if not output.is_file() or output.read_bytes() != text.encode():
            names = " and ".join(map(str, folders))
            print(f"{output} is not what the records of {names} give; write it again without --check")
            raise typer.Exit(1)
    else:
        write_text(output, text)
