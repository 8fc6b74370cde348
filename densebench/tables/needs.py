"""What the cells of a table need, and what of it is not there: weights, data, packages, other cells, storage and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from densebench.errors import UserError
from densebench.extras import EXTRAS
from densebench.tables.cells import Cell, Places
from densebench.tables.presence import (
    CELL,
    OPTION,
    PACKAGE,
    WEIGHTS,
    Lack,
    Presence,
    fetched,
    has_checkpoint,
    package_of,
    package_of_spec,
)
from densebench.tables.sizes import Size, Sizes, chosen_options, configured
from densebench.training.run_file import is_finished


@dataclass(frozen=True)
class Need:
    """What one cell needs. lacks: what is not there. waits: labels of unfinished cells that come first. notes: what else to know.

    done: whether a pretraining is finished; of evaluations the records tell.
    """

    cell: Cell
    lacks: tuple[Lack, ...] = ()
    waits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    size: Size = field(default_factory=Size)
    done: bool = False

    @property
    def can_run(self) -> bool:
        """Whether everything that it needs is there, or is made by another cell."""
        return not self.lacks


@dataclass(frozen=True)
class Needs:
    """What all cells of a table need; bytes: of all features and checkpoints that are estimated, shared features counted once."""

    cells: tuple[Need, ...]
    bytes: int

    def __iter__(self) -> Iterator[Need]:
        return iter(self.cells)


def needs(cells: Sequence[Cell], places: Places, *, trial: bool = False) -> Needs:
    """Return what each cell needs. Nothing is fetched or scored, and only digests of files are written.

    Storage follows from what protocols and methods declare. Time is estimated from one forward pass of each network and from
    earlier records; with `trial`, from a few images of each stage, backbone and data set, and from two steps of each pretraining,
    which takes minutes.
    """
    presence, sizes = Presence(places.data_root), Sizes(places.results, trial)
    by_id: dict[str, Need] = {}
    for cell in cells:
        if cell.kind == "figure":
            by_id[cell.id] = _of_figure(cell, presence, by_id)
            continue
        need = (_of_pretraining if cell.kind == "pretrain" else _of_evaluation)(cell, presence, sizes)
        before = [by_id[each] for each in cell.needs if each in by_id]
        blocked = [
            Lack(CELL, each.cell.label, f"{each.cell.label} cannot run") for each in before if each.lacks and not each.done
        ]
        waits = tuple(each.cell.label for each in before if not each.done)
        by_id[cell.id] = replace(need, lacks=(*need.lacks, *blocked), waits=waits)
    return Needs(tuple(by_id[cell.id] for cell in cells), sizes.total)


def _of_pretraining(cell: Cell, presence: Presence, sizes: Sizes) -> Need:
    done = cell.output is not None and is_finished(cell.output)
    init = str(cell.request["init"] or "")
    images = presence.images(tuple(cell.request["data"]), cell.request["limit"])
    lacks, note, why = _of_backbone(cell, init, presence)
    lacks += [images] if isinstance(images, Lack) else []
    notes = (note,) if note else ()
    if lacks or why or isinstance(images, Lack):
        return Need(cell, tuple(lacks), notes=notes, size=Size(why=why or "something is missing"), done=done)
    try:
        chosen = chosen_options(cell)
        if (lack := package_of(chosen)) is not None:
            return Need(cell, (lack,), notes=notes, size=Size(why="something is missing"), done=done)
        return Need(cell, notes=notes, size=sizes.of_pretraining(cell, chosen, images), done=done)
    except UserError as error:
        return Need(cell, (Lack(OPTION, cell.label, str(error)),), notes=notes, size=Size(why="it cannot run"), done=done)


def _of_evaluation(cell: Cell, presence: Presence, sizes: Sizes) -> Need:
    lacks, note, why = _of_backbone(cell, str(cell.request["model"]), presence)
    dataset, notes = presence.dataset(cell.dataset), [note] if note else []
    if isinstance(dataset, Lack):
        return Need(cell, (*lacks, dataset), notes=tuple(notes), size=Size(why=why or "something is missing"))
    try:
        evaluator, preset, requested = configured(cell, dataset)
        missing, partial = presence.splits(cell.dataset, evaluator.splits(dataset))
        package = package_of(evaluator)
        lacks += [*missing, *([package] if package is not None else [])]
        notes += partial
        if lacks or why:
            return Need(cell, tuple(lacks), notes=tuple(notes), size=Size(why=why or "something is missing"))
        try:
            backbone = sizes.load(requested)
        except UserError as error:
            lack = Lack(OPTION, cell.label, str(error)) if cell.weights is None else Lack(WEIGHTS, cell.weights, str(error))
            return Need(cell, (lack,), notes=tuple(notes), size=Size(why="it cannot be loaded"))
        size = sizes.of_evaluation(evaluator, preset, backbone, dataset, cell.request["limit"])
        return Need(cell, notes=tuple(notes), size=size)
    except UserError as error:
        kind = PACKAGE if any(f"needs {package}," in str(error) for package in EXTRAS) else OPTION
        return Need(cell, (*lacks, Lack(kind, cell.label, str(error))), notes=tuple(notes), size=Size(why="it cannot run"))


def _of_figure(cell: Cell, presence: Presence, by_id: Mapping[str, Need]) -> Need:
    """Return what keeps a figure from being drawn: all of its backbones, or the images of its maps; a note on some of them."""
    lacking: dict[str, Lack] = {}
    for part in cell.parts:
        name, made = part["name"], by_id.get(part["cell"] or "")
        lack = presence.weights(part["weights"], part["url"], part["sha256"]) if made is None else None
        if made is not None and made.lacks and not made.done:
            lack = Lack(CELL, made.cell.label, f"{made.cell.label} cannot run")
        lacking |= {} if lack is None else {name: lack}
    lacks = list(lacking.values()) if len(lacking) == len(cell.parts) else []
    notes = (f"{cell.label}: drawn without {', '.join(lacking)}",) if lacking and not lacks else ()
    if cell.request["draws"] == "maps":
        lacks += presence.scored(cell.dataset)
    waits = tuple(by_id[want].cell.label for want in cell.wants if want in by_id and not by_id[want].done)
    return Need(cell, tuple(lacks), waits=waits, notes=notes, size=Size(bytes=0))


def _of_backbone(cell: Cell, spec: str, presence: Presence) -> tuple[list[Lack], str, str]:
    """Return what a cell's backbone, or the one that it starts from, lacks, a note on it, and why nothing can be estimated."""
    found = [presence.weights(cell.weights, cell.url, cell.sha256), package_of_spec(spec)]
    lacks, note = [lack for lack in found if lack is not None], fetched(spec, cell.weights)
    if spec.startswith("ckpt:") and not has_checkpoint(spec):
        if cell.needs:
            return lacks, note, "the checkpoint does not exist yet"
        lacks.append(Lack(WEIGHTS, spec, f"there is no checkpoint {spec}", "give the folder that pretraining wrote"))
    return lacks, note, "the weights may have to be fetched" if note else ""
