"""Evaluation: protocols x data sets x backbones, each a record that is written after every score and can be resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from densebench import catalog, options
from densebench.backbones.backbone import Backbone
from densebench.backbones.checkpoint import newest_checkpoint, read_checkpoint
from densebench.backbones.loading import load_backbone
from densebench.console import notice, one_line
from densebench.datasets import load_dataset
from densebench.datasets.catalog import built_in, fitting
from densebench.datasets.dataset import Dataset
from densebench.errors import UserError, unknown
from densebench.evaluation.estimate import check_fits, declared, plan
from densebench.evaluation.protocol import Evaluator, Run, shown_in_pictures
from densebench.evaluation.room import reserved
from densebench.files import cache
from densebench.files.atomic import cache_root, digest, remove
from densebench.numerics.arithmetic import float32
from densebench.processes import describe, joined, peak_memory_mb, resolve_device, synchronise
from densebench.results import record as records
from densebench.results.provenance import code

RANDOM_BASELINE = "random:vit_tiny_patch16_224"


@dataclass(frozen=True)
class Backbones:
    """Which backbones are scored, and how they are read: `Backbones(["timm:vit_small_patch14_dinov2"], layer="8,9,10,11")`."""

    specs: Sequence[str] = ()
    """What `load_backbone` takes; none: the newest checkpoint under `runs/`, else an untrained network."""
    weights: Path | None = None
    """The weights of the one `timm:` spec that is given."""
    name: str | None = None
    """What tables call the one backbone that is given, instead of its spec."""
    role: str = "teacher"
    """Which network of a checkpoint: teacher or student."""
    layer: str = "last"
    pos_embed: str = "auto"
    seed: int = 0
    """The seed of the initial weights of `random:` specs."""

    def checked(self, override: Backbone | None) -> list[str]:
        """Return the specs, or the spec of `override` alone. Raises UserError for fields that exclude one another."""
        if override is not None and (self.specs or replace(self, specs=(), name=None) != Backbones()):
            raise UserError(f"{override.spec} is scored as it is; leave out --backbone, --weights and how to read them")
        specs = list(self.specs) if override is None else [override.spec]
        for flag, value in (("--weights", self.weights), ("--name", self.name)):
            if value is not None and len(specs) != 1:
                raise UserError(f"{flag} {value} goes with one --backbone; {len(specs)} are given")
        if self.name is not None and self.name != one_line(self.name):
            raise UserError(f"--name {self.name!r} holds a line break or another control character; leave it out")
        return specs

    def load(self, spec: str) -> Backbone:
        """Load the backbone of one spec."""
        how: dict[str, Any] = {"layer": self.layer, "pos_embed": self.pos_embed, "role": self.role, "seed": self.seed}
        return load_backbone(spec, weights=self.weights, **how)


def evaluate(
    protocol: str,
    *,
    preset: str | None = None,
    backbones: Sequence[str] | Backbones = (),
    datasets: Sequence[str] = (),
    data_root: Path | None = None,
    limit: int | None = None,
    results: Path = Path("results"),
    rerun: bool = False,
    dry_run: bool = False,
    command: str = "",
    **given: Any,
) -> Iterator[dict[str, Any]]:
    """Score every backbone on every data set and yield the record of each, as JSON values.

    `backbones` are specs, or `Backbones` where it matters how they are read. `given` are the protocol's own options by field
    name, as values or as the texts that the command line takes. Without backbones and data sets, the newest checkpoint under
    `runs/` is scored on the data it was trained on. Points that a record holds already are not scored again unless `rerun`;
    `dry_run` scores and writes nothing. `command` is what the record names as the command that made it.
    Raises UserError for whatever the caller can mend; records written until then stay.
    """
    sources = backbones if isinstance(backbones, Backbones) else Backbones(backbones)
    options.check_run(sources.seed, limit)
    evaluator, preset = _built(protocol, preset, given)
    override = evaluator.source_override()
    specs, opened = _opened(evaluator, protocol, sources.checked(override), datasets, data_root)
    with joined(resolve_device(evaluator.device)) as world:
        if world.size > 1 and not evaluator.several_processes:
            raise UserError(f"{protocol}/{preset} runs in one process, not in {world.size}; start it without torchrun")
        if world.is_main and not dry_run:
            records.check_writable(results)
        for spec in specs:
            backbone = override or sources.load(spec)
            for dataset in opened:
                resolved = evaluator.resolve(dataset)
                header = _header(resolved, protocol, preset, backbone, sources.name, dataset, limit)
                if dry_run:
                    record = _planned(resolved, header, backbone, dataset)
                else:
                    if rerun:
                        check_fits(resolved, backbone, dataset, limit)  # before the record is started anew
                    writer = _record(results, header, rerun=rerun, is_main=world.is_main)
                    record = _Cell(resolved, backbone, dataset, writer, limit).complete(command)
                if world.is_main:
                    yield record


def _built(protocol: str, preset: str | None, given: Mapping[str, Any]) -> tuple[Evaluator, str]:
    """Return a protocol with its options, and the name of its preset. Raises UserError for what is unknown."""
    kind = catalog.load("protocols", protocol, preset)
    preset = next(iter(kind.presets)) if preset is None else preset
    if preset not in kind.presets:
        known = catalog.find("protocols", protocol).all_presets
        raise unknown("preset", preset, known, f"{protocol} has {', '.join(known)}")
    for name in (field.name for field in fields(Backbones) if field.name in given):
        if name not in {flag.name for flag in options.flags(kind)}:
            raise UserError(f"{name} says how backbones are read: write backbones=Backbones([...], {name}=...)")
    evaluator: Evaluator = options.build(kind, kind.presets[preset], given)
    cache.limit_of(evaluator.cache_limit)  # a wrong one is refused before a record is made
    return evaluator, preset


def _opened(
    evaluator: Evaluator, protocol: str, specs: list[str], datasets: Sequence[str], data_root: Path | None
) -> tuple[list[str], list[Dataset]]:
    """Return the specs and data sets to score. Raises UserError for a kind of data set or a number of runs that does not fit."""
    takes = evaluator.takes
    if not datasets and takes != "label maps":
        raise UserError(f"--protocol {protocol} takes {takes}; name some with --dataset: {fitting(takes)}")
    specs, datasets = _defaults(specs, datasets)
    opened = [load_dataset(dataset, data_root) for dataset in datasets]
    if (option := evaluator.alone()) and len(specs) * len(opened) > 1:
        raise UserError(f"{option} goes with one backbone and one data set; {len(specs)} and {len(opened)} are given")
    for dataset in opened:
        if dataset.kind != takes:
            raise UserError(f"--dataset {dataset.name} has {dataset.kind}; {protocol} takes {takes}: {fitting(takes)}")
    return specs, opened


def _defaults(specs: list[str], datasets: Sequence[str]) -> tuple[list[str], Sequence[str]]:
    """Return the specs and data sets, with defaults where none are given; a notice names each default."""
    if not specs:
        newest = newest_checkpoint(Path("runs"))
        if newest is None:
            method = next(iter(catalog.entries("methods")), "")
            remedy = f"`densebench pretrain {method}` makes a better one" if method else "name one with --backbone"
            specs, ending = [RANDOM_BASELINE], f", untrained; {remedy}"
        else:
            specs, ending = [f"ckpt:{newest}"], ""
        datasets = datasets or [(newest and _trained_on(newest)) or "scenes"]
        notice(f"no --backbone: scoring {specs[0]}{ending}")
    if not datasets:
        datasets = ["scenes"]
        notice("no --dataset: scoring on the generated data set scenes")
    return specs, datasets


def _trained_on(folder: Path) -> str | None:
    """Return the data set that a checkpoint names, if any. Raises UserError for one that is neither built in nor a folder."""
    name = read_checkpoint(folder).get("dataset")
    if name is not None and not (str(name) in built_in() or str(name).startswith(("folder:", "frames:"))):
        raise UserError(f"ckpt:{folder} was trained on {name!r}, which is not built in; name what to score on with --dataset")
    return name


def _header(
    evaluator: Evaluator, protocol: str, preset: str, backbone: Backbone, name: str | None, dataset: Dataset, limit: int | None
) -> dict[str, Any]:
    """Return the header of a record: everything that its identity is made from, and names."""
    about = {"name": protocol, "preset": preset, "version": evaluator.version, "settings": evaluator.settings(dataset)}
    return {
        "backbone": backbone.identity() | ({"name": name} if name else {}),
        "protocol": {**about, "headline": evaluator.headline(), "code": catalog.code_of("protocols", protocol)},
        "dataset": _dataset(evaluator, dataset, limit),
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
        "code": dataset.code,
        **dataset.facts(),
    }


def _planned(evaluator: Evaluator, header: dict[str, Any], backbone: Backbone, dataset: Dataset) -> dict[str, Any]:
    """Return what a dry run yields: the header that the record would have, its points, and what they will take."""
    points = evaluator.points(dataset)
    notice(f"dry run: {len(points)} points of {dataset.name} with {header['backbone']['spec']}; nothing is scored or written")
    estimate = plan(evaluator, backbone, dataset, header["dataset"]["limit"])
    return {**header, "points": [dict(point) for point in points], "estimate": estimate}


def _record(results: Path, header: dict[str, Any], *, rerun: bool, is_main: bool) -> records.Record:
    """Return the record of a run. The main process opens it; the others wait for that, and get a read-only one."""
    if is_main:
        record = records.open_or_create(results, header, rerun=rerun)
        if rerun:
            _forget_progress(record)
    synchronise()
    return record if is_main else records.Record(results, header, read_only=True)


@dataclass(frozen=True)
class _Cell:
    """One backbone on one data set, and its record."""

    evaluator: Evaluator
    backbone: Backbone
    dataset: Dataset
    record: records.Record
    limit: int | None

    def complete(self, command: str) -> dict[str, Any]:
        """Score what the record lacks, draw what is wanted and not yet drawn, and return the record's values."""
        points, known = self.evaluator.points(self.dataset), frozenset(self.record.points())
        synchronise()
        if not all(point in known for point in points):
            run = Run(self.limit, known, self.pictures)
            with self.room(run):
                self.score(run, command)
            return self.record.json()
        also = f" (and {option} needs that)" if (option := self.evaluator.alone()) else ""
        notice(f"{self.record.path} holds all {len(points)} points already; --rerun scores them again{also}")
        if not self.record.read_only:
            self.draw()
            self.record.finish("complete", {}, points)  # it may have been killed between its last score and its end
            _forget_progress(self.record)
        return self.record.json()

    @property
    def pictures(self) -> Path:
        """The folder of the record's pictures."""
        return self.record.path.parents[1] / "pictures" / self.record.id

    @property
    def visualise(self) -> int:
        """How many pictures are wanted; none where the protocol has no such option."""
        return getattr(self.evaluator, "visualise", 0)

    def score(self, run: Run, command: str) -> None:
        """Run the protocol, and write each score at once."""
        evaluator, device = self.evaluator, resolve_device(self.evaluator.device)
        run.progress_key = _progress_key(self.record)
        started, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
        facts = {"command": command, "started": started, "device": describe(device)}
        self.record.start({**facts, "runtime": options.select(evaluator, "runtime"), "precision": evaluator.precision})
        try:
            with float32(tf32=evaluator.precision == "tf32"):
                for score in evaluator.run(self.backbone, self.dataset, run):
                    self.record.add([score])
        except BaseException:
            self.record.finish("failed", {"seconds": _rounded(run.seconds)})
            raise
        seconds = _rounded({**run.seconds, "total": time.perf_counter() - clock})
        drawn = {"drawn": self.visualise} if self.visualise else {}
        end = {"seconds": seconds, "peak_memory_mb": peak_memory_mb(device), **drawn}
        self.record.finish("complete", end, evaluator.points(self.dataset))
        if not self.record.read_only:
            _forget_progress(self.record)

    def room(self, run: Run) -> AbstractContextManager[None]:
        """Return a block that holds the features of a run, and tidies up after it."""
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
                notice(f"--visualise {count}: the head that the pictures show was not saved; {remedy}")
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


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}
