"""What `densebench run` prints of a table besides the states of its cells: needs, scores, and what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densebench.console import notice
from densebench.results.terminal import terminal_width

if TYPE_CHECKING:
    from densebench.results.tables import Leaderboard
    from densebench.tables.cells import Cell, Places
    from densebench.tables.entries import Table
    from densebench.tables.states import State, TableFolder


def show_needs(table: Table, cells: Sequence[Cell], places: Places, trial: bool, as_json: bool) -> None:
    """Print what each cell needs and what of it is not there."""
    from densebench.tables import listing
    from densebench.tables.needs import needs

    found = needs(cells, places, trial=trial)
    if as_json:
        not_measured = [{"row": entry.row, "why": entry.why} for entry in table.missing]
        print(json.dumps({**listing.as_json(found), "not_measured": not_measured}))
        return
    width = terminal_width()
    if width is None:
        print("\n".join(str(part) for part in listing.render(found, None)))
    else:
        from rich.console import Console

        console = Console()
        for part in listing.render(found, width):
            console.print(part)
    _show_not_measured(table)


def _show_not_measured(table: Table) -> None:
    for entry in table.missing:
        notice(str(entry))


def close(table: Table, found: Sequence[State], folder: TableFolder, as_json: bool) -> None:
    """Print what came out: the tables of the records, or what each record of a rehearsal says, and a line that sums up."""
    from densebench.tables.display import as_json as json_of
    from densebench.tables.display import summary

    if as_json:
        print(json.dumps(json_of(table.title or table.name, found)))
    else:
        _show_records(table, found, folder.results)
    for state in found:
        if state.word == "done" and state.cell.kind == "figure":
            notice(f"{state.cell.label}: {', '.join(state.note['outputs'])}")
    ended = summary(found)
    tried_again = "; running it again runs the others, and failed cells once more" if any(s.word != "done" for s in found) else ""
    notice(f"{ended}{tried_again}")


def _show_records(table: Table, found: Sequence[State], results: Path) -> None:
    """Print the records of the cells that are done: as tables, and one by one where no table may hold them."""
    from densebench.results import record as records
    from densebench.results.leaderboard import leaderboard
    from densebench.results.summary import summary

    scored = [state for state in found if state.word == "done" and state.note.get("record")]
    paths = [results / "records" / f"{state.note['record']}.json" for state in scored]
    stored = [records.read(path) for path in paths]
    read = [_named(record, state.cell.backbone) for record, state in zip(stored, scored, strict=True)]
    apart = [record for record in read if table.rehearsal or record["dataset"]["limit"] is not None]
    if apart:
        print("\n".join(map(summary, apart)))
    whole = [record for record in read if record not in apart]
    if not whole:
        return
    if table.published:
        from densebench.results.against import against

        _show_board(against(whole, table.published, table.rows))
        _show_not_measured(table)
    shown: dict[str, Any] = {
        "dataset": sorted({record["dataset"]["name"] for record in whole}),
        "protocol": sorted({f"{record['protocol']['name']}/{record['protocol']['preset']}" for record in whole}),
        "backbone": sorted({record["backbone"].get("name", record["backbone"]["spec"]) for record in stored}),
    }
    _show_board(leaderboard(results, **shown))


def _named(record: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a record with the name of a backbone: those with the same weights have one record, which the last one named."""
    return {**record, "backbone": {**record["backbone"], "name": name}}


def _show_board(board: Leaderboard) -> None:
    if terminal_width() is None:
        print(board.render("md"), end="")
    else:
        from rich.console import Console

        Console().print(board)


def exit_status(found: Sequence[State]) -> int:
    """Return 0 where all is done, 2 where whatever failed can be mended by the user, else 1."""
    failed = [state for state in found if state.word == "failed"]
    if all(state.word == "done" for state in found):
        return 0
    others = [state for state in found if state.word not in ("done", "failed", "blocked")]
    return 2 if failed and not others and all(state.note.get("users") for state in failed) else 1
