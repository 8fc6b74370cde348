"""A shard of a protocol with one point: it extracts its share of the features into the cache, and scores nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from densebench import options
from densebench.backbones.backbone import Backbone
from densebench.console import notice
from densebench.datasets.dataset import Dataset
from densebench.errors import UserError
from densebench.evaluation.estimate import check_fits, declared
from densebench.evaluation.plan import Plan
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.room import reserved
from densebench.features.extract import Extraction
from densebench.files.atomic import cache_root
from densebench.numerics.arithmetic import float32
from densebench.processes import describe, rank, resolve_device
from densebench.results.shards import ShardRecord


def extract_share(
    plan: Plan, evaluator: Evaluator, backbone: Backbone, dataset: Dataset, header: dict[str, Any]
) -> dict[str, Any]:
    """Extract the shard's share of the images of every extraction that the protocol declares; return the shard as JSON values.

    All shards together fill the cache, from which the whole record is then scored. Features of augmented views stay until then.
    Raises UserError where the protocol stores no features, since then there is nothing to share.
    """
    assert plan.shard is not None
    shard, name = plan.shard, f"{header['protocol']['name']}/{header['protocol']['preset']} on {dataset.name}"
    stages = declared(evaluator, backbone, dataset, Run(plan.limit))
    wanted = [stage.extraction for stage in stages if stage.extraction is not None]
    if not wanted:
        why = "has one point and stores no features, so there is nothing to deal out"
        raise UserError(f"--shard {shard}: {name} {why}; score it without --shard, or in several processes by --gpus")
    check_fits(evaluator, backbone, dataset, plan.limit)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    clock = time.perf_counter()
    shares = [replace(extraction, items=shard.of_work(extraction.items)) for extraction in wanted]
    keeping = replace(evaluator, keep_features=True)  # the run that scores needs them, and removes those of augmented views
    with reserved(keeping, stages, header["protocol"]["name"], dataset.name), float32(tf32=evaluator.precision == "tf32"):
        for share in shares:
            evaluator.extracted(share)
    images, available = _images(shares), _images(wanted)
    record = ShardRecord(plan.results, header, shard, evaluator.points(dataset), read_only=rank() > 0)
    facts: dict[str, Any] = {"command": plan.command, "started": started, "device": describe(resolve_device(evaluator.device))}
    facts |= {"precision": evaluator.precision, "runtime": options.select(evaluator, "runtime")}
    facts["seconds"] = {"total": round(time.perf_counter() - clock, 3)}
    if not record.read_only:
        record.note_features(images, available, facts)
    then = f"without --shard, with {cache_root()} at hand, it scores them"
    notice(f"{name} has one point: shard {shard} extracted the features of {images} of {available} images; {then}")
    return {} if record.read_only else record.json()


def _images(extractions: Sequence[Extraction]) -> int:
    return sum(len(extraction.items) for extraction in extractions)
