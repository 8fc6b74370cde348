"""`densebench push`: records to a repository of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    repository: Annotated[
        str, typer.Argument(metavar="hf:ORG/NAME", help="A data set repository; it is created if there is none.")
    ],
    results: Annotated[Path, typer.Option(metavar="DIR", help="The folder whose complete records are sent.")] = Path("results"),
    pictures: Annotated[bool, typer.Option("--pictures", help="Send the pictures of the records too.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")] = False,
) -> None:
    """Send records, their tables and a card in one commit; files that are there already are not sent again.

    Records name the commands that made them, including paths. The token is that of HF_TOKEN or of `hf auth login`.
    """
    from densebench.results.hub import Repository

    target = Repository.read(repository)

    from densebench.console import notice, warn
    from densebench.results.pushing import prepare, send

    prepared = prepare(target, results, pictures=pictures, offline=dry_run)
    for line in prepared.left_out:
        warn(f"left out: {line}")
    for line in prepared.notices:
        notice(line)
    if dry_run:
        for path, content in sorted(prepared.files.items()):
            print(f"{len(content):>12,} {path}")
        print(f"{prepared}; nothing was sent")
        return
    address = send(prepared, private=private)
    print(
        f"{target}: nothing to send, all {prepared.same} files are there already" if address is None else f"{prepared}: {address}"
    )
