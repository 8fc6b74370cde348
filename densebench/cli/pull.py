"""`densebench pull`: records from a repository of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from densebench.cli import completing
from densebench.cli.merge import show
from densebench.errors import UserError

SIDES = ("hub", "here")


def pull(
    repository: Annotated[
        str, typer.Argument(metavar="hf:ORG/NAME[@REVISION]", help="A data set repository that `densebench push` wrote.")
    ],
    into: Annotated[Path, typer.Option(metavar="DIR", help="The results folder to merge into.")] = Path("results"),
    prefer: Annotated[
        str | None,
        typer.Option(
            metavar="hub|here",
            help="Whose scores count where they contradict each other.",
            autocompletion=completing.words(*SIDES),
        ),
    ] = None,
) -> None:
    """Merge the records and pictures of a repository into a results folder; whatever is not a sound record is left out."""
    if prefer is not None and prefer not in SIDES:
        raise UserError(f"--prefer {prefer}: write hub or here")

    from densebench.results.hub import Repository

    source = Repository.read(repository)

    from densebench.results.pulling import Side
    from densebench.results.pulling import pull as pulled

    show(pulled(source, into, prefer=cast("Side | None", prefer)))
