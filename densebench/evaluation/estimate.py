"""What a run will store and how long it will take: an estimate from its stages and a trial on ten images."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from densebench.backbones.backbone import Backbone
from densebench.console import notice
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.errors import UserError
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction
from densebench.files.atomic import cache_root
from densebench.files.cache import in_gb, limit_of
from densebench.files.store import stored_keys
from densebench.numerics.arithmetic import float32
from densebench.processes import describe, resolve_device, resolve_workers

TRIED = 10  # images of a trial, at most
BUDGET = 60.0
"""Seconds that the trial may take; where ten images would take longer, one image is all that is tried."""


@dataclass(frozen=True)
class StageSize:
    """What one stage will store, in bytes, and what of it the cache holds already, in images and bytes.

    lacking: the images whose features have to be computed; all of them for a stage without features.
    """

    stage: Stage
    bytes: int
    cached_bytes: int
    cached_images: int
    lacking: Sequence[Item]


def declared(evaluator: Evaluator, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
    """Return the stages of a run; none where a class has a `run` of its own but inherits `stages`, which may not fit it."""
    owners = [next(kind for kind in type(evaluator).__mro__ if name in vars(kind)) for name in ("stages", "run")]
    if not issubclass(owners[0], owners[1]):
        return []
    return list(evaluator.stages(backbone, dataset, run))


def size_of(stage: Stage) -> StageSize:
    """Return what a stage will store; no file is opened or changed."""
    wanted = stage.extraction
    if wanted is None:
        return StageSize(stage, 0, 0, 0, stage.items)
    every, lacking = wanted.lacking(()), wanted.lacking(stored_keys(wanted.folder))
    total, missing = wanted.nbytes(every), wanted.nbytes(lacking)
    return StageSize(stage, total, total - missing, len(every) - len(lacking), lacking)


def needed(stages: Iterable[Stage]) -> tuple[int, int]:
    """Return the bytes that the features of all stages take together, and how many of these the cache lacks.

    Stages that share features count them once.
    """
    total, missing, seen = 0, 0, defaultdict[Path, set[str]](set)
    for wanted in (stage.extraction for stage in stages if stage.extraction is not None):
        every = wanted.lacking(seen[wanted.folder])
        held = stored_keys(wanted.folder)
        total += wanted.nbytes(every)
        missing += wanted.nbytes(item for item in every if wanted.keys[item.name] not in held)
        seen[wanted.folder] |= set(wanted.keys.values())
    return total, missing


def free_bytes() -> int:
    """Return the free space of the disk that the cache is on."""
    folder = cache_root().absolute()
    return shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free


def check_fits(evaluator: Evaluator, backbone: Backbone, dataset: Dataset, images: int | None) -> None:
    """Raise UserError where the features of a run of at most so many images of a split take more than `--cache-limit`."""
    if (limit := limit_of(evaluator.cache_limit)) is not None:
        check_room(*needed(declared(evaluator, backbone, dataset, Run(images))), limit)


def check_room(total: int, missing: int, limit: int | None) -> None:
    """Raise UserError where the features of a run exceed the limit of the cache; print a notice where they exceed the disk."""
    remedy = "store less by --precision fp16, a smaller --image-size or --limit"
    if limit is not None and total > limit:
        what = f"the features of this run take {in_gb(total)}, more than the cache limit of {in_gb(limit)}"
        raise UserError(f"{what}: raise --cache-limit, or {remedy}")
    if missing > (free := free_bytes()):
        what = f"the features of this run take {in_gb(missing)} more, but {cache_root()} has {in_gb(free)} free"
        notice(f"{what}: free some space, set DENSEBENCH_CACHE elsewhere, or {remedy}")


def estimate_run(evaluator: Evaluator, backbone: Backbone, dataset: Dataset, limit: int | None) -> dict[str, Any]:
    """Return what a run would store and how long it would take, as JSON values, and print it as a table of notices.

    `seconds` of a stage is None where it cannot be estimated, and so are all where the protocol declares no stages.
    Raises UserError where the features alone take more than `--cache-limit`.
    """
    sizes = [size_of(stage) for stage in declared(evaluator, backbone, dataset, Run(limit))]
    seconds = Trial(evaluator, backbone).seconds(sizes)
    stages = [
        {
            "stage": each.stage.name, "images": each.stage.images, "bytes": each.bytes, "cached_bytes": each.cached_bytes,
            "cached_images": each.cached_images, "seconds": None if measured is None else round(measured, 1),
        }
        for each, measured in zip(sizes, seconds, strict=True)
    ]  # fmt: skip
    known = [measured for measured in seconds if measured is not None]
    together, missing = needed(each.stage for each in sizes)
    total = {
        "bytes": together,
        "seconds": round(sum(known), 1) if known else None,
        "free_bytes": free_bytes(),
    }
    result = {"stages": stages, **total, "device": describe(resolve_device(evaluator.device))}
    for line in table(result):
        notice(line)
    check_room(together, missing, limit_of(evaluator.cache_limit))
    return result


class Trial:
    """Times a small part of each stage on the device of the run: ten images, after one that warms up.

    known: what other trials have measured, for runs of the same backbone on the same data set; this one adds to it.
    """

    def __init__(self, evaluator: Evaluator, backbone: Backbone, known: dict[Any, float] | None = None) -> None:
        self.evaluator, self.device = evaluator, resolve_device(evaluator.device)
        self._known = {} if known is None else known

    def seconds(self, sizes: Sequence[StageSize]) -> list[float | None]:
        """Return the seconds that each stage will take; None where no short trial can measure it."""
        share = BUDGET / max(1, len(sizes))
        with contextlib.redirect_stderr(io.StringIO()), float32(tf32=self.evaluator.precision == "tf32"):
            return [self._of(each, share) for each in sizes]

    def _of(self, each: StageSize, budget: float) -> float | None:
        stage, wanted = each.stage, each.stage.extraction
        if not each.lacking:
            return 0.0
        if wanted is not None:
            kind = (id(wanted.backbone), wanted.augmented, type(wanted.view), wanted.view.identity() | {"epoch": 0})
            key = repr(kind)
            if key not in self._known:
                some = limited(each.lacking, TRIED)
                self._known[key] = self._seconds_per_image(wanted, some, budget)
            return self._known[key] * len(each.lacking)
        if stage.sample is None:
            return None
        some = limited(stage.items, TRIED)
        first, share = self._timed(stage, some[:1])
        if first * len(some) <= budget and len(some) > 1:
            first, share = self._timed(stage, some)
        return first / share

    def _timed(self, stage: Stage, items: Sequence[Item]) -> tuple[float, float]:
        """Return how long the sample of a stage takes, and which share of the stage it is."""
        assert stage.sample is not None
        started = time.perf_counter()
        share = stage.sample(items)
        return time.perf_counter() - started, len(items) / stage.images if share is None else share

    def _seconds_per_image(self, wanted: Extraction, items: Sequence[Item], budget: float) -> float:
        """Return the seconds from the file of one image to its features: decoding, and the forward pass on the device."""
        wanted.backbone.to(self.device)
        measured = self._seconds_of_parts(wanted, items[:1])
        if sum(measured) * len(items) <= budget:
            measured = self._seconds_of_parts(wanted, items)
        workers = resolve_workers(self.evaluator.workers, len(wanted.items), self.device)
        if workers and self.device.type == "cuda":  # images are decoded while the device computes
            return max(measured[0] / workers, measured[1])
        return sum(measured)

    def _seconds_of_parts(self, wanted: Extraction, items: Sequence[Item]) -> tuple[float, float]:
        """Return the seconds for one image: decoding, and its part of a forward pass at the batch size of the run."""
        started = time.perf_counter()
        images = [wanted.decoded(item) for item in items]
        decoded = time.perf_counter()
        shapes: dict[Any, list[torch.Tensor]] = {}
        for image in images:
            shapes.setdefault(image.shape, []).append(image)
        count = 0
        for equal in shapes.values():
            size = wanted.images_at_once(self.evaluator.batch_size, self.device, (equal[0].shape[1], equal[0].shape[2]))
            batches = [equal[start : start + size] for start in range(0, len(equal), size)]
            if self.device.type == "cuda" and len(items) > 1:  # a GPU that is not full would look slow
                batches = [[batch[i % len(batch)] for i in range(size)] for batch in batches]
            for batch in batches:
                wanted.passed(torch.stack(batch), self.device).cpu()
                count += len(batch)
        return (decoded - started) / len(items), (time.perf_counter() - decoded) / count


def table(estimate: dict[str, Any]) -> list[str]:
    """Return the lines of a table of the estimate: one for each stage, and the total."""
    if not estimate["stages"]:
        return ["what this protocol stores and how long it takes is not estimated: it declares no stages"]
    rows = [("stage", "images", "cache", "of which cached", "minutes")]
    for stage in estimate["stages"]:
        stored = in_gb(stage["bytes"]) if stage["bytes"] else "-"
        cached = in_gb(stage["cached_bytes"]) if stage["cached_bytes"] else "-"
        rows.append((stage["stage"], f"{stage['images']:,}", stored, cached, minutes(stage["seconds"])))
    unknown = any(stage["seconds"] is None for stage in estimate["stages"])
    least = "at least " if unknown and estimate["seconds"] is not None else ""
    together = in_gb(estimate["bytes"]) if estimate["bytes"] else "-"
    rows.append(("together", "", together, "", least + minutes(estimate["seconds"])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    if estimate["seconds"] is None:
        return [*lines, "nothing short can measure how long this takes"]
    more = "; stages that are not estimated come on top" if unknown else ""
    return [*lines, f"minutes are estimated by a trial of at most {TRIED} images on {estimate['device']}{more}"]


def minutes(seconds: float | None) -> str:
    """Return a time in minutes, in words."""
    if seconds is None:
        return "not estimated"
    return f"{seconds / 60:.1f}"
