"""A cell of an evaluation: one backbone on one data set by one protocol, and the record that its scores are written to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from densebench import catalog, options
from densebench.backbones.backbone import Backbone
from densebench.backbones.sources import FILE
from densebench.console import notice, warn
from densebench.costs import Meter
from densebench.datasets.dataset import Dataset
from densebench.errors import UserError
from densebench.evaluation.estimate import check_fits, declared, estimate_run
from densebench.evaluation.plan import Plan, Requested
from densebench.evaluation.protocol import Evaluator, Run, shown_in_pictures
from densebench.evaluation.room import reserved
from densebench.files import cache
from densebench.files.atomic import cache_root, digest, remove
from densebench.numerics.arithmetic import float32
from densebench.processes import alone, describe, from_main, resolve_device
from densebench.results import record as records
from densebench.results.provenance import code
from densebench.results.score import Score, from_json, point_of
from densebench.user_code import class_code


class Scored(NamedTuple):
    """One score, and where it belongs: the names of the backbone and of the data set, and the id of the record that holds it."""

    backbone: str
    dataset: str
    record: str
    score: Score


def steps_of_cell(
    plan: Plan, requested: Requested, backbone: Backbone, dataset: Dataset, is_main: bool
) -> Iterator[Scored | dict[str, Any]]:
    """Score what the record of one cell lacks; yield each score once it is written, and at the end the record as JSON values.

    Scores that the record holds already come first. A dry run yields the plan of the record alone. Of several processes only
    the main one gets anything.
    """
    evaluator = plan.evaluator.resolve(dataset)
    header = _header(plan, evaluator, backbone, requested.name, dataset)
    if plan.dry_run:
        with alone():  # a trial exchanges nothing
            record = _planned(evaluator, header, backbone, dataset)
    else:
        if plan.rerun:
            check_fits(evaluator, backbone, dataset, plan.limit)  # before the record is started anew
        cell = _Cell(evaluator, backbone, dataset, _record(plan.results, header, plan.rerun, is_main), plan.limit)
        name = requested.name or backbone.spec
        for score in cell.complete(plan.command):
            if is_main:
                yield Scored(name, dataset.name, cell.record.id, score)
        record = cell.record.json()
    if is_main:
        yield record


def _header(plan: Plan, evaluator: Evaluator, backbone: Backbone, name: str | None, dataset: Dataset) -> dict[str, Any]:
    """Return the header of a record: everything that its identity is made from, and names for people."""
    protocol, name = plan.protocol, name or (Path(backbone.spec).stem if backbone.info.kind == FILE else None)
    about = {"name": catalog.short_name("protocols", protocol), "preset": plan.preset, "version": evaluator.version}
    about["settings"] = evaluator.settings(dataset)
    return {
        "backbone": backbone.identity() | ({"name": name} if name else {}),
        "protocol": {**about, "headline": evaluator.headline(), "code": catalog.code_of("protocols", protocol)},
        "dataset": _dataset(evaluator, dataset, plan.limit),
    }


def _dataset(evaluator: Evaluator, dataset: Dataset, limit: int | None) -> dict[str, Any]:
    train, scored = evaluator.splits(dataset)
    items = {split: dataset.part(split, limit) for split in (train, scored)}
    available = len(items[scored])
    items[scored] = list(evaluator.scored(items[scored], dataset))
    for split in items:
        if not items[split]:
            raise UserError(f"{dataset.name} has no image in {split}; choose another split or complete the data")
    return {
        "name": dataset.name,
        "train_split": train,
        "split": scored,
        "images": len(items[scored]),
        "train_images": len(items[train]),
        "left_out": available - len(items[scored]),
        "official_images": dataset.official_images(scored),
        "official_train_images": dataset.official_images(train),
        "digest": digest([dataset.digest(split, items[split]) for split in items], 16),
        "limit": limit,
        "code": dataset.code or class_code(type(dataset)),
        **dataset.facts(),
    }


def _planned(evaluator: Evaluator, header: dict[str, Any], backbone: Backbone, dataset: Dataset) -> dict[str, Any]:
    """Return what a dry run yields: the header that the record would have, its points, and the estimate of time and storage."""
    points = evaluator.points(dataset)
    notice(f"dry run: {len(points)} points of {dataset.name} with {header['backbone']['spec']}; nothing is scored or written")
    costs = estimate_run(evaluator, backbone, dataset, header["dataset"]["limit"])
    return {**header, "points": [dict(point) for point in points], "estimate": costs}


def _record(results: Path, header: dict[str, Any], rerun: bool, is_main: bool) -> records.Record:
    """Return the record of a run. The main process opens it; the others wait for that, and get a read-only one."""
    opened: list[records.Record] = []

    def open_it() -> None:
        opened.append(records.open_or_create(results, header, rerun=rerun))
        if rerun:
            _forget_progress(opened[0])

    from_main(open_it)
    return opened[0] if is_main else records.Record(results, header, read_only=True)


@dataclass(frozen=True)
class _Cell:
    """One backbone on one data set, and its record."""

    evaluator: Evaluator
    backbone: Backbone
    dataset: Dataset
    record: records.Record
    limit: int | None

    def complete(self, command: str) -> Iterator[Score]:
        """Score what the record lacks, draw what is not yet drawn; yield the scores of every requested point."""
        points, known = self.evaluator.points(self.dataset), from_main(lambda: frozenset(self.record.points()))
        if not self.record.read_only:
            yield from (from_json(score) for score in self.record.json()["scores"] if point_of(score) in {*points} & known)
        if not all(point in known for point in points):
            run = Run(self.limit, known, None if self.record.read_only else self.pictures)
            with ExitStack() as held:
                try:
                    held.enter_context(self.room(run))
                except BaseException:
                    self.record.finish("failed", {})
                    raise
                yield from self.score(run, command)
            return
        also = f" (and {option} needs that)" if (option := self.evaluator.alone()) else ""
        notice(f"{self.record.path} holds all {len(points)} points already; --rerun scores them again{also}")
        if not self.record.read_only:
            with alone():
                self.draw()
            self.record.finish("complete", {}, points)  # it may have been killed between its last score and its end
            _forget_progress(self.record)

    @property
    def pictures(self) -> Path:
        """The folder of the record's pictures."""
        return self.record.path.parents[1] / "pictures" / self.record.id

    @property
    def visualise(self) -> int:
        """How many pictures are wanted; none where the protocol has no such option."""
        return getattr(self.evaluator, "visualise", 0)

    def score(self, run: Run, command: str) -> Iterator[Score]:
        """Run the protocol, write each score at once, and yield it."""
        evaluator, device = self.evaluator, resolve_device(self.evaluator.device)
        run.progress_key = _progress_key(self.record)
        meter, points = Meter(device), set[frozenset[Any]]()
        run.clock = meter.clock
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        facts = {"command": command, "started": started, "device": describe(device)}
        self.record.start({**facts, "runtime": options.select(evaluator, "runtime"), "precision": evaluator.precision})
        try:
            scores = evaluator.run(self.backbone, self.dataset, run)
            while True:
                with float32(tf32=evaluator.precision == "tf32"), meter.running():  # not while the caller has the score
                    score = next(scores, None)
                if score is None:
                    break
                self.record.add([score])
                points.add(frozenset(score.axes.items()))
                yield score
        except BaseException:
            self.record.finish("failed", _costs(run, meter, len(points)))
            raise
        drawn = {"drawn": self.visualise} if self.visualise else {}
        self.record.finish("complete", {**_costs(run, meter, len(points)), **drawn}, evaluator.points(self.dataset))
        if not self.record.read_only:
            _forget_progress(self.record)

    def room(self, run: Run) -> AbstractContextManager[None]:
        """Return a context that reserves the cache folders of a run's features, and tidies up after it."""
        stages = declared(self.evaluator, self.backbone, self.dataset, run)
        return reserved(self.evaluator, stages, self.record.header["protocol"]["name"], self.dataset.name)

    def draw(self) -> None:
        """Draw the pictures of a finished record that are wanted and not yet drawn; its scores stay as they are."""
        count, points = self.visualise, self.evaluator.points(self.dataset)
        if not count or (self.record.json()["run"].get("drawn") == count and self.pictures.is_dir()):
            return
        if not self.evaluator.draws_later:
            if not any(self.pictures.glob("*.png")):  # else they were drawn before the score was written
                remedy = "--rerun trains it again and draws them"
                warn(f"--visualise {count}: the head that the pictures show was not saved; {remedy}")
            return
        known = frozenset(points) - {shown_in_pictures(points)}
        run = Run(self.limit, known, self.pictures, drawing=True)
        with self.room(run), float32(tf32=self.evaluator.precision == "tf32"):
            for _ in self.evaluator.run(self.backbone, self.dataset, run):
                pass
        self.record.finish("complete", {"drawn": count}, points)


def _progress_key(record: records.Record) -> str:
    header = {**record.header, "backbone": {name: v for name, v in record.header["backbone"].items() if name != "name"}}
    return f"{record.id}-{digest([header, code()['densebench']], 16)}"


def _forget_progress(record: records.Record) -> None:
    """Remove the work in progress of a record."""
    for folder in (cache_root() / "scoring").glob(f"{_progress_key(record)}-*"):
        if cache.is_marked(folder):
            cache.release(folder)  # unless another process is doing the same work
        else:
            remove(folder)


def _costs(run: Run, meter: Meter, points: int) -> dict[str, Any]:
    """Return the costs of a run that scored so many points, as its record holds them."""
    seconds = {name: round(value, 3) for name, value in {**run.seconds, "total": meter.clock()}.items()}
    return {"scored_points": points, "seconds": seconds, **meter.figures()}
