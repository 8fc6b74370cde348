"""The sheet of a figure, drawn from what there is: the pictures of records and pretrainings, their logs, maps of backbones.

A backbone that is not there is left out; a line below the pictures and the log say which, and why.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from densebench.backbones.loading import load_backbone
from densebench.console import warn
from densebench.datasets.catalog import load_dataset
from densebench.datasets.dataset import limited
from densebench.errors import UserError, unknown
from densebench.files.logs import read_log
from densebench.pictures.canvas import save
from densebench.pictures.curves import line_chart
from densebench.pictures.sheet import Row, sheet
from densebench.results import record as records
from densebench.tables.cells import Cell
from densebench.tables.entries import READING
from densebench.tables.figure_maps import Shown, columns_of, head_of, rows_of
from densebench.tables.states import TableFolder, done_of_wanted

LOG = "log.csv"
STEP = re.compile(r"-\d+\.png$")
Part = Mapping[str, Any]


def draw_figure(cell: Cell, folder: TableFolder) -> dict[str, Any]:
    """Write the sheet of a figure, and return what a note says of it: the file, what it was drawn from, and who is not on it.

    Raises UserError where no backbone can be shown.
    """
    done = done_of_wanted(cell, folder)
    drawn, missing = {}, dict[str, str]()
    each = _EACH[cell.request["draws"]](cell, folder)
    for part in cell.parts:
        if part["cell"] is not None and part["cell"] not in done:
            note = folder.noted_of(part["cell"])
            missing[part["name"]] = note.get("problem") or "it is not done"
            continue
        try:
            drawn[part["name"]] = each(part)
        except UserError as error:
            missing[part["name"]] = str(error)
    if not drawn:
        raise UserError(f"{cell.label}: nothing to draw; " + "; ".join(f"{name}: {why}" for name, why in missing.items()))
    rows, columns = _ARRANGED[cell.request["draws"]](cell, drawn)
    lines = [f"not there: {name} ({why})" for name, why in missing.items()]
    for line in lines:
        warn(f"{cell.label}: {line}")
    path = folder.figure_path(cell.request["number"])
    path.parent.mkdir(parents=True, exist_ok=True)
    save(sheet(rows, columns, cell.label, "\n".join(lines)), path)
    return {"outputs": [str(path)], "drawn_from": done, "not_drawn": missing}


def _of_protocol(cell: Cell, folder: TableFolder) -> Callable[[Part], dict[str, Path]]:
    """Return a function that gives the pictures of a backbone's record by their names; it draws those that are not there yet."""
    wanted = cell.request["settings"]

    def found(part: Part) -> dict[str, Path]:
        made = Cell(part["cell"], "evaluation", part["name"], (), part["made_by"])
        record = records.read(folder.results / "records" / f"{folder.noted_of(made.id)['record']}.json")
        pictures = folder.results / "pictures" / record["id"]
        if record["run"].get("drawn") != made.request["visualise"] or not pictures.is_dir():
            _evaluate(made)
        names = [path.name for path in sorted(pictures.glob("*.png")) if fnmatch.fnmatchcase(path.name, wanted["files"])]
        if not names:
            has = ", ".join(sorted(path.name for path in pictures.glob("*.png"))[:3]) or "none"
            raise UserError(f"no picture of its record is called {wanted['files']}; there are: {has}")
        return {name: pictures / name for name in names}

    return found


def _evaluate(made: Cell) -> None:
    """Run an evaluation whose record is complete: it draws the pictures that it asks for."""
    from densebench.evaluation.plan import planned
    from densebench.evaluation.run import steps

    positional, keywords = made.arguments()
    for _ in steps([planned(*positional, **keywords)], keep_going=False):
        pass


def _beside(cell: Cell, drawn: Mapping[str, Mapping[str, Path]]) -> tuple[list[Row], list[str]]:
    """Return one row for each picture that all backbones have, evenly spaced ones of as many as are asked for; a column each."""
    common = set[str].intersection(*(set(pictures) for pictures in drawn.values()))
    if not common:
        raise UserError(f"{cell.label}: {', '.join(drawn)} have no picture of the same image")
    chosen = limited(sorted(common), cell.request["settings"]["count"])
    return [("", [_opened(pictures[name]) for pictures in drawn.values()]) for name in chosen], list(drawn)


def _of_pretraining(cell: Cell, folder: TableFolder) -> Callable[[Part], Path]:
    """Return a function that gives the newest picture of a kind in a run folder."""
    kind = cell.request["settings"]["pretraining"]

    def found(part: Part) -> Path:
        pictures = Path(part["made_by"]["output"]) / "pictures"
        paths = sorted(path for path in pictures.glob("*.png") if STEP.search(path.name))
        if not paths:
            raise UserError(f"there are no pictures in {pictures}: it was trained without --visualise; train it again")
        kinds = dict.fromkeys(STEP.sub("", path.name) for path in paths)
        if kind not in kinds:
            raise unknown("picture", kind, kinds, f"{part['made_by']['method']} draws {', '.join(kinds)}")
        return [path for path in paths if STEP.sub("", path.name) == kind][-1]

    return found


def _in_columns(cell: Cell, drawn: Mapping[str, Path]) -> tuple[list[Row], list[str]]:
    return [("", [_opened(path) for path in drawn.values()])], list(drawn)


def _of_log(cell: Cell, folder: TableFolder) -> Callable[[Part], tuple[list[float], list[float]]]:
    """Return a function that gives where and how high the points of a column of a training's log are."""
    column, over = cell.request["settings"]["column"], cell.request["settings"]["over"]

    def found(part: Part) -> tuple[list[float], list[float]]:
        log = read_log(Path(part["made_by"]["output"]) / LOG)
        columns = list(dict.fromkeys(name for row in log for name in row))
        if column not in columns:
            raise unknown("column", column, columns, f"its {LOG} has {', '.join(columns) or 'no rows'}")
        return points_of(log, column, over)

    return found


def points_of(log: Sequence[Mapping[str, str]], column: str, over: str) -> tuple[list[float], list[float]]:
    """Return a column of a log over "step", or its means over each "epoch" (1: the first one)."""
    values = defaultdict[float, list[float]](list)
    for row in log:
        if column in row and over in row:
            at = float(row[over])
            values[at if over == "step" else -(-at // 1)].append(float(row[column]))
    return list(values), [sum(each) / len(each) for each in values.values()]


def _in_one(cell: Cell, drawn: Mapping[str, tuple[list[float], list[float]]]) -> tuple[list[Row], list[str]]:
    settings = cell.request["settings"]
    return [("", [line_chart(drawn, settings["over"], settings["column"])])], []


def _of_backbone(cell: Cell, folder: TableFolder) -> Callable[[Part], tuple[list[Row], list[str]]]:
    """Return a function that gives the rows of a backbone's maps, and what their columns are called."""
    root = cell.request["data_root"]
    shown = _shown_images(cell, None if root is None else Path(root))

    def found(part: Part) -> tuple[list[Row], list[str]]:
        reading = {key: part[key] for key in READING if key != "layer"}
        backbone = load_backbone(part["spec"], weights=part["weights"], name=part["name"], **reading)
        return rows_of(shown, part["name"], backbone), columns_of(shown, backbone)

    return found


def _shown_images(cell: Cell, root: Path | None) -> Shown:
    return Shown(load_dataset(cell.request["settings"]["dataset"], root), cell.request["settings"])


def _below(cell: Cell, drawn: Mapping[str, tuple[list[Row], list[str]]]) -> tuple[list[Row], list[str]]:
    """Return the rows of all backbones; the columns have names where they are the same for all of them."""
    root = cell.request["data_root"]
    head = head_of(_shown_images(cell, None if root is None else Path(root)))
    names = [columns for _, columns in drawn.values()]
    same = names[0] if all(columns == names[0] for columns in names) else []
    return [*head, *(row for rows, _ in drawn.values() for row in rows)], same


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


_EACH: Mapping[str, Callable[[Cell, TableFolder], Callable[[Part], Any]]] = {
    "protocol": _of_protocol, "pretraining": _of_pretraining, "curve": _of_log, "maps": _of_backbone,
}  # fmt: skip
"""By what a figure shows, what gives that of one backbone."""
_ARRANGED: Mapping[str, Callable[[Cell, Any], tuple[list[Row], list[str]]]] = {
    "protocol": _beside, "pretraining": _in_columns, "curve": _in_one, "maps": _below,
}  # fmt: skip
"""By what a figure shows, what puts all that into rows and columns."""
