"""`densebench run`: every cell of a table, many at once, and what there is of them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densebench.cli import completing
from densebench.cli.backbone_options import DataRoot
from densebench.cli.run_output import close, exit_status, show_needs
from densebench.console import notice, warn
from densebench.errors import UserError
from densebench.results.terminal import terminal_width

if TYPE_CHECKING:
    from densebench.tables.cells import Cell, Places
    from densebench.tables.entries import Table
    from densebench.tables.page import LivePage
    from densebench.tables.states import State, TableFolder
    from densebench.tables.submission import Report

REFRESH = 1.0  # seconds between two pictures of the live table


def run(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="A TOML file, or a name of `densebench ls tables`.", autocompletion=completing.tables
        ),
    ],
    status: Annotated[
        bool, typer.Option("--status", help="Show the state of every cell, live on a terminal and as a page, and run nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state of every cell as one JSON object.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what each cell needs and what is not there; do nothing.")
    ] = False,
    trial: Annotated[
        bool, typer.Option("--trial", help="With --dry-run: time a few images of each cell, which takes minutes.")
    ] = False,
    gpus: Annotated[int | None, typer.Option(metavar="N", min=1, help="Run N cells at once, each on a GPU of its own.")] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Run N cells at once, each on its default device.")
    ] = None,
    slurm: Annotated[
        str | None,
        typer.Option(metavar="KEY=VALUE,...", help="Submit to SLURM: partition=gpu,gpus_per_node=8,time=12:00:00 and the like."),
    ] = None,
    weights_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the files of weights that the table names.")
    ] = Path(),
    data_root: DataRoot = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Folder that records are written to.")] = Path("results"),
    changed: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A rehearsal: arch=test_vit, data=scenes, epochs=1, iterations=2, limit=8, or any other option of a method or a "
            "protocol, in every entry that has it; its results stay apart; repeatable.",
        ),
    ] = None,
) -> None:
    """Run every cell of a table that is not done: each backbone, evaluation and data set, and each pretraining.

    A cell that fails is noted and the rest goes on; running it again runs what is missing, and failed cells once more.
    """
    _check_given(status=status, dry_run=dry_run, gpus=gpus, processes=processes, slurm=slurm)
    if trial and not dry_run:
        raise UserError("--trial goes with --dry-run; add that or leave --trial out")

    from densebench.tables.cells import cells as cells_of
    from densebench.tables.states import TableFolder
    from densebench.tables.table_file import read_table

    asked = read_table(table, changed or ())
    places = _places(asked, results, weights_dir, data_root)
    cells = cells_of(asked, places)
    folder = TableFolder(places.results, asked.name)
    title = asked.title or asked.name
    if dry_run:
        show_needs(asked, cells, places, trial, as_json)
    elif status:
        _show_status(title, cells, folder, as_json)
    elif slurm is not None:
        _forget_outdated(cells, folder)
        _submit(asked, cells, folder, slurm, gpus or processes)
    else:
        _forget_outdated(cells, folder)
        found = _run_here(title, cells, folder, gpus, processes, bool(asked.rehearsal), as_json)
        close(asked, found, folder, as_json)
        raise typer.Exit(exit_status(found))


def _check_given(*, status: bool, dry_run: bool, gpus: int | None, processes: int | None, slurm: str | None) -> None:
    """Raise UserError for options that exclude one another."""
    given = {"--status": status, "--dry-run": dry_run, "--gpus": gpus, "--processes": processes, "--slurm": slurm}
    for pair in (("--status", "--dry-run"), ("--status", "--slurm"), ("--dry-run", "--slurm"), ("--gpus", "--processes")):
        if all(given[name] for name in pair):
            raise UserError(f"{pair[0]} does not go with {pair[1]}; leave one of them out")


def _places(table: Table, results: Path, weights_dir: Path, data_root: Path | None) -> Places:
    """Return the folders of the work. A rehearsal has folders of its own, so that nothing of it enters a real table."""
    from densebench.tables.cells import Places

    places = Places(results=results, weights_dir=weights_dir, data_root=data_root)
    if not table.rehearsal:
        return places
    return dataclasses.replace(places, results=results / "rehearsals" / table.name, runs=places.runs / "rehearsals")


def _show_status(title: str, cells: Sequence[Cell], folder: TableFolder, as_json: bool) -> None:
    """Print the states, and write them as a page; on a terminal, until nothing is left to run, or Ctrl-C comes."""
    from densebench.tables.display import as_json as json_of
    from densebench.tables.display import line, summary
    from densebench.tables.page import LivePage
    from densebench.tables.states import states

    found = states(cells, folder)
    if as_json:
        print(json.dumps(json_of(title, found)))
        return
    page = LivePage(title, folder)
    _write(page, found)
    if terminal_width() is None:
        print("\n".join([*(line(state) for state in found), summary(found)]))
        return
    with _live(title) as show:
        show(found)
        while any(state.word not in ("done", "failed", "blocked") for state in found):
            time.sleep(REFRESH)
            found = states(cells, folder)
            show(found)
            page.show(found)
    page.write(found)


def _write(page: LivePage, found: Sequence[State]) -> None:
    """Write the page of the states for the first time, and say where it is."""
    if page.write(found):
        notice(f"{page.path} shows the states in a browser")


@contextmanager
def _live(title: str) -> Iterator[Report]:
    """Yield a function that shows states as a table on the terminal, in the place of the last ones, as many rows as fit."""
    from rich.console import Console
    from rich.live import Live

    from densebench.tables.display import as_table

    console = Console()
    found: list[State] = []

    def picture(rows: int | None) -> Any:
        return as_table(title, found, rows)

    with Live(console=console, auto_refresh=False, transient=True) as live:
        shown = [0.0]

        def show(states: Sequence[State]) -> None:
            found[:] = states
            if time.monotonic() - shown[0] >= REFRESH:
                shown[0] = time.monotonic()
                live.update(picture(console.size.height - 8), refresh=True)

        try:
            yield show
        finally:
            live.stop()
            console.print(picture(None))


@contextmanager
def _in_lines() -> Iterator[Report]:
    """Yield a function that prints a line on stderr for each cell that has ended."""
    from densebench.tables.display import Lines

    lines = Lines()

    def show(states: Sequence[State]) -> None:
        for text in lines.news(states):
            (notice if text.startswith("done") else warn)(text)

    yield show


def _forget_outdated(cells: Sequence[Cell], folder: TableFolder) -> None:
    """Let cells wait again whose data set or protocol has changed since they were done."""
    if all(folder.noted(cell).get("state") != "done" for cell in cells):
        return  # torch is not imported for that
    from densebench.tables.carrying_out import forget_outdated

    if outdated := forget_outdated(cells, folder):
        labels = "; ".join(cell.label for cell in outdated)
        notice(f"the data set or the protocol is not what it was, these are scored anew: {labels}")


def _run_here(
    title: str,
    cells: Sequence[Cell],
    folder: TableFolder,
    gpus: int | None,
    processes: int | None,
    rehearsal: bool,
    as_json: bool,
) -> list[State]:
    """Run what is missing on this machine and return the states at the end. Raises Stopped after Ctrl-C."""
    from densebench.tables.page import LivePage
    from densebench.tables.states import states
    from densebench.tables.submission import LocalRun, Slots

    slots = Slots.of_gpus(gpus) if gpus else Slots(processes or 1)
    on_terminal = terminal_width() is not None and not as_json
    page = LivePage(title, folder)
    _write(page, states(cells, folder))
    with _live(title) if on_terminal else _in_lines() as show:

        def report(found: Sequence[State]) -> None:
            show(found)
            page.show(found)

        try:
            return LocalRun(cells, folder, slots, report, rehearsal).run()
        finally:
            page.write(states(cells, folder))


def _submit(table: Table, cells: Sequence[Cell], folder: TableFolder, given: str, slots: int | None) -> None:
    """Submit what is missing to SLURM, and print the ids of the jobs."""
    from densebench.tables.slurm import read_parameters, submit

    parameters = read_parameters(given)
    jobs = submit(cells, folder, parameters, table.name, slots or parameters.get("gpus_per_node", 1), bool(table.rehearsal))
    if jobs:
        print("\n".join(jobs))
        notice("submitted; the same command with --status in place of --slurm shows how far it is")
    else:
        notice("nothing to submit: all cells are done")
