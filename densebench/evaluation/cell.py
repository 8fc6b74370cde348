"""A cell of an evaluation: one backbone on one data set by one protocol, and the record that its scores are written to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
from densebench.evaluation.option_groups import Supervised, check_two_splits
from densebench.evaluation.plan import Plan, Requested
from densebench.evaluation.protocol import Evaluator, Run, shown_in_pictures
from densebench.evaluation.room import reserved
from densebench.evaluation.share import extract_share
from densebench.files import cache
from densebench.files.atomic import cache_root, digest, remove
from densebench.numerics.arithmetic import float32
from densebench.processes import alone, collected, describe, from_main, resolve_device
from densebench.results import record as records
from densebench.results.provenance import code, mark_of_rehearsal
from densebench.results.score import Point, Score, from_json, point_of
from densebench.results.shards import Shard, ShardRecord
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
    if evaluator.fine_tunes and backbone.network is not backbone.trunk:
        given = " and ".join(f"--{name}" for name in ("debias", "upsample") if name in backbone.identity())
        raise UserError(f"{given} changes the features of a frozen network, and {plan.protocol} trains the network: leave it out")
    header = _header(plan, evaluator, backbone, requested.name, dataset)
    _check_same_record(header)
    if plan.dry_run:
        with alone():  # a trial exchanges nothing
            record = _planned(evaluator, header, backbone, dataset, plan.shard)
    elif plan.shard is not None and len(evaluator.points(dataset)) == 1:
        record = extract_share(plan, evaluator, backbone, dataset, header)
    else:
        if plan.rerun:
            check_fits(evaluator, backbone, dataset, plan.limit)  # before the record is started anew
        record_file = _record(plan, header, evaluator.points(dataset), is_main)
        cell = _Cell(evaluator, backbone, dataset, record_file, plan.limit)
        name = requested.name or backbone.spec
        for score in cell.complete(plan.command):
            if is_main:
                yield Scored(name, dataset.name, cell.record.id, score)
        record = cell.record.json() if is_main else {}
    if is_main:
        yield record


def _check_same_record(header: dict[str, Any]) -> None:
    """Raise UserError, in all processes, where one of them would score something else: on another host, data may differ."""
    ids = collected([records.identity_of(header)])
    if other := next((number for number, id_ in enumerate(ids) if id_ != ids[0]), None):
        what = f"{header['backbone']['spec']} on {header['dataset']['name']}"
        raise UserError(
            f"process {other} would write the record {ids[other]} of {what}, the main process {ids[0]}: they see other data, "
            "weights or code; give all processes the same"
        )


def group_of(plan: Plan, dataset: Dataset) -> str:
    """Return the group of the record that a plan makes on a data set, as the protocol, its code and the data are now."""
    return records.group_of(_about(plan, plan.evaluator.resolve(dataset), dataset))


def _header(plan: Plan, evaluator: Evaluator, backbone: Backbone, name: str | None, dataset: Dataset) -> dict[str, Any]:
    """Return the header of a record: everything that its identity is made from, and names for people."""
    name = name or (Path(backbone.spec).stem if backbone.info.kind == FILE else None)
    return {"backbone": backbone.identity() | ({"name": name} if name else {}), **_about(plan, evaluator, dataset)}


def _about(plan: Plan, evaluator: Evaluator, dataset: Dataset) -> dict[str, Any]:
    """Return what the header of a record says of the protocol and of the data set."""
    protocol = plan.protocol
    about = {"name": catalog.short_name("protocols", protocol), "preset": plan.preset, "version": evaluator.version}
    about["settings"] = evaluator.settings(dataset)
    decides = {"decides": point} if (point := evaluator.decides()) else {}
    return {
        "protocol": {**about, "headline": evaluator.headline(), **decides, "code": catalog.code_of("protocols", protocol)},
        "dataset": _dataset(evaluator, dataset, plan.limit),
    }


def _dataset(evaluator: Evaluator, dataset: Dataset, limit: int | None) -> dict[str, Any]:
    train, scored = evaluator.splits(dataset)
    if isinstance(evaluator, Supervised):
        check_two_splits(dataset, train, scored)
    items = {split: dataset.part(split, limit) for split in (train, scored)}
    available = len(items[scored])
    items[scored] = list(evaluator.scored(items[scored], dataset))
    if available and not items[scored]:
        raise UserError(
            f"none of the {available} images of {dataset.name} {scored} shows what is scored; choose another split or give others"
        )
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
        **(dataset.extent(scored, limit) if dataset.kind == evaluator.takes else {}),
    }


def _planned(
    evaluator: Evaluator, header: dict[str, Any], backbone: Backbone, dataset: Dataset, shard: Shard | None
) -> dict[str, Any]:
    """Return what a dry run yields: the header that the record would have, its points, and the estimate of time and storage."""
    every = evaluator.points(dataset)
    points = every if shard is None or len(every) == 1 else shard.of_work(every)
    of_shard = "" if shard is None else f", shard {shard} of {len(every)} points"
    about = f"{len(points)} points of {dataset.name} with {header['backbone']['spec']}{of_shard}"
    notice(f"dry run: {about}; nothing is scored or written")
    if shard is not None and len(every) == 1:
        notice("a shard of one point only extracts its share of the features; the estimate is that of the whole record")
    costs = estimate_run(evaluator, backbone, dataset, header["dataset"]["limit"], frozenset(every) - frozenset(points))
    return {**header, "points": [dict(point) for point in points], "estimate": costs}


def _record(plan: Plan, header: dict[str, Any], points: Sequence[Point], is_main: bool) -> records.Record:
    """Return the record of a run, or of its shard. The main process opens it; the others wait, and get a read-only one."""
    if plan.shard is None:
        record = records.Record(plan.results, header, read_only=not is_main)
    else:
        record = ShardRecord(plan.results, header, plan.shard, points, read_only=not is_main)

    def open_it() -> None:
        record.open(rerun=plan.rerun)
        if plan.rerun:
            _forget_progress(record)

    from_main(open_it)
    return record


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
        points, known = self.points, from_main(lambda: frozenset(self.record.points()))
        if not self.record.read_only:
            yield from (from_json(score) for score in self.record.json()["scores"] if point_of(score) in {*points} & known)
        if not all(point in known for point in points):
            others = frozenset(self.evaluator.points(self.dataset)) - frozenset(points)  # those of other shards
            draws = self.draws and not self.record.read_only
            run = Run(self.limit, known | others, self.pictures if draws else None)
            with ExitStack() as held:
                try:
                    held.enter_context(self.room(run))
                except BaseException:
                    self.record.finish("failed", {})
                    raise
                yield from self.score(run, command)
            return
        also = f" (and {option} needs that)" if (option := self.evaluator.alone()) else ""
        has_all = f"holds all {len(points)} points already; --rerun scores them again{also}"
        notice(f"{self.record.path} {has_all if points else 'has no point to score: there are more shards than points'}")
        if not self.record.read_only:
            with alone():
                self.draw()
            self.record.finish("complete", {}, points)  # it may have been killed between its last score and its end
            _forget_progress(self.record)

    @property
    def points(self) -> list[Point]:
        """The points that the record is to hold."""
        return self.record.own(self.evaluator.points(self.dataset))

    @property
    def draws(self) -> bool:
        """Whether the point that pictures show is one of them: of several shards, one draws."""
        return shown_in_pictures(self.evaluator.points(self.dataset)) in self.points

    @property
    def pictures(self) -> Path:
        """The folder of the record's pictures."""
        return self.record.results / "pictures" / self.record.id

    @property
    def visualise(self) -> int:
        """How many pictures are wanted; none where the protocol has no such option."""
        return getattr(self.evaluator, "visualise", 0) if self.draws else 0

    def score(self, run: Run, command: str) -> Iterator[Score]:
        """Run the protocol, write each score at once, and yield it."""
        evaluator, device = self.evaluator, resolve_device(self.evaluator.device)
        run.progress_key = _progress_key(self.record)
        meter, points = Meter(device), set[frozenset[Any]]()
        run.clock = meter.clock
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        facts = {"command": command, "started": started, "device": describe(device), **mark_of_rehearsal()}
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
        self.record.finish("complete", {**_costs(run, meter, len(points)), **drawn}, self.points)
        if not self.record.read_only:
            _forget_progress(self.record)

    def room(self, run: Run) -> AbstractContextManager[None]:
        """Return a context that reserves the cache folders of a run's features, and tidies up after it."""
        stages = declared(self.evaluator, self.backbone, self.dataset, run)
        return reserved(self.evaluator, stages, self.record.header["protocol"]["name"], self.dataset.name)

    def draw(self) -> None:
        """Draw the pictures of a finished record that are wanted and not yet drawn; its scores stay as they are."""
        count, points = self.visualise, self.points
        if not count or (self.record.json()["run"].get("drawn") == count and self.pictures.is_dir()):
            return
        if not self.evaluator.draws_later:
            if not any(self.pictures.glob("*.png")):  # else they were drawn before the score was written
                remedy = "--rerun trains it again and draws them"
                warn(f"--visualise {count}: the head that the pictures show was not saved; {remedy}")
            return
        every = self.evaluator.points(self.dataset)
        known = frozenset(every) - {shown_in_pictures(every)}
        run = Run(self.limit, known, self.pictures, drawing=True)
        with self.room(run), float32(tf32=self.evaluator.precision == "tf32"):
            for _ in self.evaluator.run(self.backbone, self.dataset, run):
                pass
        self.record.finish("complete", {"drawn": count}, points)


def _progress_key(record: records.Record) -> str:
    header = {**record.header, "backbone": {name: v for name, v in record.header["backbone"].items() if name != "name"}}
    shard = [str(record.shard)] if isinstance(record, ShardRecord) else []
    return f"{record.id}-{digest([header, code()['densebench'], *shard], 16)}"


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
