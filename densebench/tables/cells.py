"""The cells of a table: each is one pretraining, one evaluation of one backbone on one data set, or one figure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from densebench.errors import UserError
from densebench.files.atomic import digest
from densebench.flag import Flag
from densebench.tables.entries import READING, BackboneEntry, EvaluationEntry, FigureEntry, PretrainEntry, Row, Table
from densebench.training.request import Data, Init

PRETRAIN = ("method", "data", "data_root", "preset", "variant", "init", "weights", "seed", "limit", "output")
EVALUATION = (
    *("model", "protocol", "dataset", "preset", "name", "weights", *READING, "data_root", "limit", "results", "options"),
)
"""The keys of a request that are no options of a method or a protocol."""


@dataclass(frozen=True)
class Places:
    """The folders of a table's work: records, run folders of pretrainings, files of weights, data sets (None: the default)."""

    results: Path = Path("results")
    runs: Path = Path("runs")
    weights_dir: Path = Path()
    data_root: Path | None = None


@dataclass(frozen=True)
class Cell:
    """One unit of work of a table, which a process of its own carries out.

    id: 8 hexadecimal digits made from everything that decides the work. kind: pretrain, evaluation or figure.
    label: what people call it, such as "DINO ViT-S/16, incontext/neco, voc". needs: the ids of the cells that must be done first.
    wants: the ids of the cells that a figure is made from; it waits until they have ended and takes those that are done.
    command: the words of the `densebench` command that does the same. request: what it asks of `train` or `evaluate`, JSON
    values: their keywords, and an option that has the name of another keyword under `options`. `arguments` turns it into their
    arguments. weights, url, sha256: the file of weights that it reads, where that comes from and what it holds.
    """

    id: str
    kind: str
    label: str
    command: tuple[str, ...]
    request: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    backbone: str = ""
    dataset: str = ""
    protocol: str = ""
    processes: int = 1
    row: Row = field(default_factory=dict)
    weights: str | None = None
    url: str | None = None
    sha256: str | None = None

    @property
    def output(self) -> Path | None:
        """The run folder that a pretraining writes; None for any other cell."""
        return Path(self.request["output"]) if self.kind == "pretrain" else None

    @property
    def parts(self) -> list[dict[str, Any]]:
        """What a figure shows of each backbone; nothing for any other cell. See `figures`."""
        return list(self.request.get("parts", ()))

    @property
    def needs_a_wanted_one(self) -> bool:
        """Whether there is nothing to draw as long as none of the cells that it wants is done."""
        return bool(self.wants) and all(part["cell"] is not None for part in self.parts)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the method or the protocol that the table gives."""
        own = PRETRAIN if self.kind == "pretrain" else EVALUATION
        return {key: value for key, value in self.request.items() if key not in own} | dict(self.request.get("options", {}))

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional arguments and the keywords of the call that does the work.

        That is `densebench.train(*positional, **keywords)` for a pretraining, `densebench.evaluate` for an evaluation.
        """
        request = dict(self.request)
        if self.kind == "pretrain":
            request["data"] = Data(request["data"], request.pop("data_root"))
            request["init"] = Init(request["init"], request.pop("weights"))
            return [request.pop("method")], request
        return [request.pop("model")], request | request.pop("options", {})


def cells(table: Table, places: Places) -> list[Cell]:
    """Return the cells of a table: pretrainings, each after the one that it starts from, then evaluations, then figures.

    Evaluations are sorted by backbone and data set, so that those that share features are neighbours. In a rehearsal, cells that
    have become the same are one cell; in any other table, two cells that are the same work raise UserError.
    """
    ids = pretraining_ids(table)
    order = sorted(table.pretrainings, key=lambda each: _depth(each.name, table))
    result = {ids[each.name]: _of_pretraining(table, each, ids, places) for each in order}
    for backbone, evaluation, dataset in _evaluated(table):
        cell = _of_evaluation(table, backbone, evaluation, dataset, ids, places)
        result.setdefault(cell.id, cell)
    for figure in table.figures:
        for backbone in table.shown(figure):
            if (source := _source(table, figure, backbone, ids, places)) is not None:
                result[source.id] = _drawing(result.get(source.id, source), _pictures(figure))
    return [*result.values(), *(_of_figure(table, figure, result, ids, places) for figure in table.figures)]


def check_distinct(table: Table) -> None:
    """Raise UserError for two entries that are the same work, and for a table without any work."""
    ids = pretraining_ids(table)
    seen: dict[str, str] = {}
    works = [(ids[each.name], f"{each.where}: {each.name}") for each in table.pretrainings]
    for backbone, evaluation, dataset in _evaluated(table):
        label = f"{evaluation.where}: {_label(backbone, evaluation, dataset)}"
        works.append((_evaluation_id(backbone, evaluation, dataset, ids), label))
    for work, label in works:
        if work in seen and not table.rehearsal:
            raise UserError(f"{label} is the same work as {seen[work]}; leave one of them out, or give it another option or seed")
        seen[work] = label
    if not seen and not table.figures:
        raise UserError("it asks for no work: it needs a [[pretrain]], or a [[backbone]] and an [[evaluation]]")


def pretraining_ids(table: Table) -> dict[str, str]:
    """Return the cell id of every pretraining by its name. An id depends on that of the pretraining that it starts from."""
    entries = {each.name: each for each in table.pretrainings}
    ids: dict[str, str] = {}
    for name in sorted(entries, key=lambda name: _depth(name, table)):
        work, start = entries[name].work(), entries[name].start
        ids[name] = digest({**work, "init": ids[start]} if start is not None else work, 8)
    return ids


def run_folder(table: Table, name: str, places: Places) -> Path:
    """Return the run folder of a pretraining: RUNS/TABLE/NAME-ID."""
    plain = re.sub(r"[^\w.=+,-]+", "-", name).strip("-.")[:80]
    return places.runs / table.name / f"{plain}-{pretraining_ids(table)[name]}"


def _depth(name: str, table: Table) -> int:
    starts = {each.name: each.start for each in table.pretrainings}
    depth = 0
    while (start := starts[name]) is not None:
        name, depth = start, depth + 1
    return depth


def _evaluated(table: Table) -> Iterator[tuple[BackboneEntry, EvaluationEntry, str]]:
    """Yield every evaluation of every backbone on every data set: backbone by backbone, then data set by data set."""
    for backbone in table.backbones:
        mine = [each for each in table.evaluations if backbone in table.backbones_of(each)]
        for dataset in dict.fromkeys(name for each in mine for name in each.datasets):
            yield from ((backbone, each, dataset) for each in mine if dataset in each.datasets)


def _label(backbone: BackboneEntry, evaluation: EvaluationEntry, dataset: str) -> str:
    return f"{backbone.name}, {evaluation.title}, {dataset}"


def _evaluation_id(backbone: BackboneEntry, evaluation: EvaluationEntry, dataset: str, ids: Mapping[str, str]) -> str:
    return digest([_work(backbone, ids), evaluation.work(dataset)], 8)


def _work(backbone: BackboneEntry, ids: Mapping[str, str]) -> dict[str, Any]:
    """Return what decides a backbone's features; of a checkpoint, by the id of its pretraining."""
    work = backbone.work()
    return work if backbone.pretraining is None else {**work, "spec": ids[backbone.pretraining]}


def _of_pretraining(table: Table, entry: PretrainEntry, ids: Mapping[str, str], places: Places) -> Cell:
    init = entry.init if entry.start is None else f"ckpt:{run_folder(table, entry.start, places)}"
    weights, folder = _file(entry.weights, places), run_folder(table, entry.name, places)
    request = {
        "method": entry.method, "data": list(entry.data), "data_root": _text(places.data_root), "preset": entry.preset,
        "variant": entry.variant, "init": init, "weights": weights, "seed": entry.seed, "limit": entry.limit,
        "output": str(folder), **entry.options,
    }  # fmt: skip
    words = ["densebench", "pretrain", entry.method, *(word for name in entry.data for word in ("--data", name))]
    given = {
        "--data-root": places.data_root, "--preset": entry.preset, "--variant": entry.variant, "--init": init,
        "--weights": weights, "--seed": entry.seed or None, "--limit": entry.limit, "--output": folder,
        "--gpus": entry.processes if entry.processes > 1 else None,
    }  # fmt: skip
    words += [*_words(given), *_option_words(entry)]
    return Cell(
        ids[entry.name], "pretrain", entry.name, tuple(words), request, () if entry.start is None else (ids[entry.start],),
        backbone=entry.name, dataset="+".join(entry.data), protocol=entry.method, processes=entry.processes, row=entry.row,
        weights=weights, url=entry.url, sha256=entry.sha256,
    )  # fmt: skip


def _of_evaluation(
    table: Table, backbone: BackboneEntry, evaluation: EvaluationEntry, dataset: str, ids: Mapping[str, str], places: Places
) -> Cell:
    made_by = backbone.pretraining
    spec = backbone.spec if made_by is None else f"ckpt:{run_folder(table, made_by, places)}"
    weights, reading = _file(backbone.weights, places), {key: getattr(backbone, key) for key in READING}
    request = {
        "model": spec, "protocol": evaluation.protocol, "dataset": dataset, "preset": evaluation.preset, "name": backbone.name,
        "weights": weights, **reading, "data_root": _text(places.data_root), "limit": evaluation.limit,
        "results": str(places.results),
    }  # fmt: skip
    request |= {key: value for key, value in evaluation.options.items() if key not in request}
    if clash := {key: value for key, value in evaluation.options.items() if request[key] is not value}:
        request["options"] = clash
    given = {
        "--protocol": evaluation.protocol, "--preset": evaluation.preset, "--backbone": spec, "--weights": weights,
        "--name": backbone.name,
        **{f"--{key.replace('_', '-')}": value for key, value in reading.items() if value != READING[key]},
        "--dataset": dataset, "--data-root": places.data_root, "--limit": evaluation.limit, "--results": places.results,
        "--gpus": evaluation.processes if evaluation.processes > 1 else None,
    }  # fmt: skip
    return Cell(
        _evaluation_id(backbone, evaluation, dataset, ids), "evaluation", _label(backbone, evaluation, dataset),
        ("densebench", "eval", *_words(given), *_option_words(evaluation)), request, () if made_by is None else (ids[made_by],),
        backbone=backbone.name, dataset=dataset, protocol=evaluation.title, processes=evaluation.processes, row=backbone.row,
        weights=weights, url=backbone.url, sha256=backbone.sha256,
    )  # fmt: skip


def _pictures(figure: FigureEntry) -> int:
    """Return how many pictures a figure asks its cells for."""
    return int(figure.settings["count"]) if "count" in figure.settings else 0


def _source(table: Table, figure: FigureEntry, backbone: BackboneEntry, ids: Mapping[str, str], places: Places) -> Cell | None:
    """Return the cell that makes what a figure shows of a backbone; None for weights that are simply read."""
    if figure.evaluation is not None:
        return _of_evaluation(table, backbone, figure.evaluation, figure.evaluation.datasets[0], ids, places)
    made_by = next((each for each in table.pretrainings if each.name == backbone.pretraining), None)
    return None if made_by is None else _of_pretraining(table, made_by, ids, places)


def _drawing(cell: Cell, count: int) -> Cell:
    """Return a cell that draws at least so many pictures, where its method or protocol can; nothing else about it changes."""
    most = max(count, cell.request.get("visualise", 0))
    if not most:
        return cell
    words = tuple(word for word in cell.command if not word.startswith("--visualise="))
    return replace(cell, request={**cell.request, "visualise": most}, command=(*words, f"--visualise={most}"))


def _of_figure(table: Table, figure: FigureEntry, made: Mapping[str, Cell], ids: Mapping[str, str], places: Places) -> Cell:
    """Return the cell of a figure, whose request has what is shown of each backbone in `parts`.

    A part has the name of the backbone, the id of the cell that makes it (`cell`; None where weights are read), this cell's
    request (`made_by`), and how the backbone is read.
    """
    parts, works = [], []
    for backbone in table.shown(figure):
        source = _source(table, figure, backbone, ids, places)
        reading = {key: getattr(backbone, key) for key in READING}
        spec = backbone.spec if backbone.pretraining is None else f"ckpt:{run_folder(table, backbone.pretraining, places)}"
        file = {"weights": _file(backbone.weights, places), "url": backbone.url, "sha256": backbone.sha256}
        request = None if source is None else dict(made[source.id].request)
        parts.append({"name": backbone.name, "cell": source and source.id, "made_by": request, "spec": spec, **file, **reading})
        works.append([backbone.name, source.id if source is not None and figure.draws != "maps" else _work(backbone, ids)])
    title = f"Figure {figure.number}" + (f": {figure.title}" if figure.title else "")
    about = {"title": title, "number": figure.number, "draws": figure.draws, "settings": dict(figure.settings)}
    return Cell(
        digest([about, works], 8), "figure", title, ("densebench", "run", str(table.file or table.name)),
        {**about, "parts": parts, "data_root": _text(places.data_root), "results": str(places.results)},
        wants=tuple(dict.fromkeys(part["cell"] for part in parts if part["cell"] is not None)),
        dataset=figure.evaluation.datasets[0] if figure.evaluation else figure.settings.get("dataset", ""),
    )  # fmt: skip


def _file(name: str | None, places: Places) -> str | None:
    return None if name is None else str(places.weights_dir / name)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _words(given: Mapping[str, Any]) -> list[str]:
    return [word for name, value in given.items() if value is not None for word in (name, str(value))]


def _option_words(entry: PretrainEntry | EvaluationEntry) -> list[str]:
    return [_option_word(entry.kind.flags[name], value) for name, value in entry.options.items()]


def _option_word(flag: Flag, value: Any) -> str:
    if flag.is_switch and isinstance(value, bool):
        return flag.spelling if value else flag.spelling.replace("--", "--no-", 1)
    values = value if isinstance(value, list) else [value]
    return f"{flag.spelling}={','.join('none' if each is None else str(each) for each in values)}"
