"""Evaluation: protocols x data sets x backbones, each a record that is written after every score and can be continued."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from densebench import catalog, options
from densebench.backbones import Backbone, load_backbone, newest_checkpoint, read_checkpoint
from densebench.console import notice, one_line
from densebench.datasets import Dataset, built_in, fitting, load_dataset
from densebench.distributed import joined, synchronise
from densebench.errors import UserError, unknown
from densebench.evaluation.protocol import Evaluator, Run, shown_in_pictures
from densebench.files import cache
from densebench.files.atomic import cache_root, digest, remove
from densebench.numerics.arithmetic import float32
from densebench.processes import describe, peak_memory_mb, resolve_device
from densebench.results import coverage
from densebench.results import record as records
from densebench.results.score import Point, heading, in_unit, place, point_of, without_seed

RANDOM_BASELINE = "random:vit_tiny_patch16_224"


def evaluate(
    protocol: str,
    *,
    preset: str | None = None,
    backbones: Sequence[str] = (),
    weights: Path | None = None,
    name: str | None = None,
    role: str = "teacher",
    layer: str = "last",
    pos_embed: str = "auto",
    seed: int = 0,
    datasets: Sequence[str] = (),
    data_root: Path | None = None,
    results: Path = Path("results"),
    limit: int | None = None,
    rerun: bool = False,
    dry_run: bool = False,
    command: str = "",
    **given: Any,
) -> Iterator[dict[str, Any]]:
    """Score every backbone on every data set and yield the record of each, as JSON values.

    `given` are the protocol's own options by field name, as values or as the texts that the command line takes. Without
    backbones and data sets, the newest checkpoint under `runs/` is scored on the data it was trained on. Points that a record
    holds already are not scored again unless `rerun`.
    `name` is what tables call the backbone instead of its spec.
    Raises UserError for whatever the caller can mend; records written until then stay.
    """
    options.check_run(seed, limit)
    kind = catalog.load("protocols", protocol, preset)
    preset = next(iter(kind.presets)) if preset is None else preset
    if preset not in kind.presets:
        known = catalog.find("protocols", protocol).all_presets
        raise unknown("preset", preset, known, f"{protocol} has {', '.join(known)}")
    evaluator: Evaluator = options.build(kind, kind.presets[preset], given)
    override = evaluator.source_override()
    read = (layer, pos_embed, role, seed) != ("last", "auto", "teacher", 0)
    if override is not None and (backbones or weights is not None or read):
        raise UserError(f"{override.spec} is scored as it is; leave out --backbone, --weights and how to read them")
    specs = list(backbones) if override is None else [override.spec]
    for flag, value in (("--weights", weights), ("--name", name)):
        if value is not None and len(specs) != 1:
            raise UserError(f"{flag} {value} goes with one --backbone; {len(specs)} are given")
    if name is not None and name != one_line(name):
        raise UserError(f"--name {name!r} holds a line break or another control character; leave it out")
    specs, opened = _opened(evaluator, protocol, specs, datasets, data_root)
    with joined(resolve_device(evaluator.device)) as world:
        if world.size > 1 and not kind.several_processes:
            raise UserError(f"{protocol}/{preset} runs in one process, not in {world.size}; start it without torchrun")
        if world.is_main and not dry_run:
            records.check_writable(results)
        for spec in specs:
            backbone = override or load_backbone(spec, weights=weights, layer=layer, pos_embed=pos_embed, role=role, seed=seed)
            for dataset in opened:
                chosen = evaluator.resolve(dataset)
                header = _header(chosen, protocol, preset, backbone, name, dataset, limit)
                if dry_run:
                    found = _planned(chosen, header, backbone, dataset)
                else:
                    record = _record(results, header, rerun, world.is_main)
                    found = _one(chosen, backbone, dataset, record, limit, command)
                if world.is_main:
                    yield found


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


def _header(
    evaluator: Evaluator, protocol: str, preset: str, backbone: Backbone, name: str | None, dataset: Dataset, limit: int | None
) -> dict[str, Any]:
    """What a record is of."""
    about = {"name": protocol, "preset": preset, "version": evaluator.version, "settings": evaluator.settings(dataset)}
    return {
        "backbone": backbone.identity() | ({"name": name} if name else {}),
        "protocol": {**about, "headline": evaluator.headline(), "code": catalog.code_of("protocols", protocol)},
        "dataset": _dataset(evaluator, dataset, limit),
    }


def _record(results: Path, header: dict[str, Any], rerun: bool, chief: bool) -> records.Record:
    """The record of a run. Of several processes one opens it; the others read what it holds, and wait until all have."""
    if chief:
        record = records.open_or_create(results, header, rerun=rerun)
        if rerun:
            _forget_progress(record)
    synchronise()
    return record if chief else records.Follower(results, header)


def _defaults(backbones: list[str], datasets: Sequence[str]) -> tuple[list[str], Sequence[str]]:
    """What a bare run scores: it is said in one line, and nothing else is guessed."""
    if backbones and datasets:
        return backbones, datasets
    if not backbones:
        newest = newest_checkpoint(Path("runs"))
        backbones = [f"ckpt:{newest}"] if newest else [RANDOM_BASELINE]
        datasets = datasets or [_trained_on(newest) or "scenes"] if newest else datasets or ["scenes"]
        better = (
            f"; `densebench pretrain {next(iter(methods))}` makes a better one" if (methods := catalog.entries("methods")) else ""
        )
        notice(
            f"no --backbone: scoring {backbones[0]}" + ("" if newest else f", untrained{better or '; name one with --backbone'}")
        )
    if not datasets:
        datasets = ["scenes"]
        notice("no --dataset: scoring on the generated data set scenes")
    return backbones, datasets


def _trained_on(folder: Path) -> str | None:
    """Return the data set that a checkpoint names, if any. Raises UserError for one that is neither built in nor a folder."""
    name = read_checkpoint(folder).get("dataset")
    if name is not None and not (str(name) in built_in() or str(name).startswith(("folder:", "frames:"))):
        raise UserError(f"ckpt:{folder} was trained on {name!r}, which is not built in; name what to score on with --dataset")
    return name


def _planned(evaluator: Evaluator, header: dict[str, Any], backbone: Backbone, dataset: Dataset) -> dict[str, Any]:
    points = evaluator.points(dataset)
    notice(f"dry run: {len(points)} points of {dataset.name} with {backbone.spec}; nothing is scored or written")
    return {**header, "points": [dict(point) for point in points]}


def _one(
    evaluator: Evaluator, backbone: Backbone, dataset: Dataset, record: records.Record, limit: int | None, command: str
) -> dict[str, Any]:
    """Score what a record lacks."""
    points, known = evaluator.points(dataset), frozenset(record.points())
    synchronise()
    if all(point in known for point in points):
        also = f" (and {option} needs that)" if (option := evaluator.alone()) else ""
        notice(f"{record.path} holds all {len(points)} points already; --rerun scores them again{also}")
        if not isinstance(record, records.Follower):
            _draw(evaluator, backbone, dataset, record, limit, points)
            record.finish("complete", {}, points)  # it may have been killed between its last score and its end
            _forget_progress(record)
    else:
        _score(evaluator, backbone, dataset, record, Run(limit, known, _pictures(record)), command)
    return record.json()


def _pictures(record: records.Record) -> Path:
    return record.path.parents[1] / "pictures" / record.id


def _draw(
    evaluator: Evaluator, backbone: Backbone, dataset: Dataset, record: records.Record, limit: int | None, points: list[Point]
) -> None:
    """Draw the pictures of a finished record that are asked for and not yet drawn; its scores stay as they are."""
    count, folder = getattr(evaluator, "visualise", 0), _pictures(record)
    if not count or (record.json()["run"].get("drawn") == count and folder.is_dir()):
        return
    if not evaluator.draws_later:
        if not any(folder.glob("*.png")):  # else they were drawn before the score was written
            notice(f"--visualise {count}: the head that the pictures show was not kept; --rerun trains it again and draws them")
        return
    known = frozenset(points) - {shown_in_pictures(points)}
    with float32(tf32=evaluator.precision == "tf32"):
        for _ in evaluator.run(backbone, dataset, Run(limit, known, folder, drawing=True)):
            pass
    record.finish("complete", {"drawn": count}, points)


def _score(evaluator: Evaluator, backbone: Backbone, dataset: Dataset, record: records.Record, run: Run, command: str) -> None:
    device = resolve_device(evaluator.device)
    run.progress_key = _progress_key(record)
    started, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    facts = {"command": command, "started": started, "device": describe(device), "runtime": options.select(evaluator, "runtime")}
    record.start({**facts, "precision": evaluator.precision})
    try:
        with float32(tf32=evaluator.precision == "tf32"):
            for score in evaluator.run(backbone, dataset, run):
                record.add([score])
    except BaseException:
        record.finish("failed", {"seconds": _rounded(run.seconds)})
        raise
    seconds = _rounded({**run.seconds, "total": time.perf_counter() - clock})
    drawn = {"drawn": count} if (count := getattr(evaluator, "visualise", 0)) else {}
    ended = {"seconds": seconds, "peak_memory_mb": peak_memory_mb(device), **drawn}
    record.finish("complete", ended, evaluator.points(dataset))
    if not isinstance(record, records.Follower):
        _forget_progress(record)


def _progress_key(record: records.Record) -> str:
    header = {**record.header, "backbone": {name: v for name, v in record.header["backbone"].items() if name != "name"}}
    return f"{record.id}-{digest([header, records.code()['densebench']], 16)}"


def _forget_progress(record: records.Record) -> None:
    for folder in (cache_root() / "scoring").glob(f"{_progress_key(record)}-*"):
        if cache.is_marked(folder):
            cache.release(folder)  # unless another process is doing the same work
        else:
            remove(folder)


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def _dataset(evaluator: Evaluator, dataset: Dataset, limit: int | None) -> dict[str, Any]:
    train, scored = evaluator.splits(dataset)
    items = {split: dataset.part(split, limit) for split in (train, scored)}
    there = len(items[scored])
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
        "left_out": there - len(items[scored]),
        "official_images": dataset.official_images(scored),
        "official_train_images": dataset.official_images(train),
        "digest": digest([dataset.digest(split, items[split]) for split in items], 16),
        "limit": limit,
        "code": dataset.code,
        **dataset.facts(),
    }


def title(record: dict[str, Any]) -> str:
    """What a record's backbone is called: the name that it was given, else its spec."""
    return record["backbone"].get("name", record["backbone"]["spec"])


def summary(record: dict[str, Any]) -> str:
    """A record in a few lines: the headline per fraction, mean ± standard deviation over seeds."""
    if "points" in record:
        points = ([f"{k} {v}" for k, v in point.items() if v is not None] for point in record["points"])
        return "\n".join(one_line(", ".join(point)) for point in points)
    protocol, headline = record["protocol"], record["protocol"]["headline"]
    shown = [score for score in record["scores"] if headline.items() <= score.items()]
    unit = in_unit(shown[0]["unit"], shown[0]["direction"]) if shown else ""
    first = (
        f"{title(record)} on {record['dataset']['name']} ({coverage.images(record['dataset'])}), "
        f"{protocol['name']}/{protocol['preset']} v{protocol['version']}, {headline['variant']} {headline['metric']}{unit}"
    )
    by_point: dict[Point, list[dict[str, Any]]] = {}
    for score in shown:
        by_point.setdefault(without_seed(point_of(score)), []).append(score)
    return "\n".join([one_line(first), *(_line(point, by_point[point]) for point in sorted(by_point, key=place))])


def _line(point: Point, scores: list[dict[str, Any]]) -> str:
    values, digits = [score["value"] for score in scores], scores[0]["digits"] + 1  # one more than tables show
    spread = f" ± {statistics.stdev(values):.{digits}f} over {len(values)} seeds" if len(values) > 1 else ""
    lacking = max(len(score.get("details", {}).get("absent", [])) for score in scores)
    lack = f" (up to {lacking} classes are in no training label)" if lacking else ""
    return f"  {heading(point):6} {statistics.fmean(values):{digits + 4}.{digits}f}{spread}{lack}"


__all__ = ["evaluate", "summary"]
