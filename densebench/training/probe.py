"""Probing: a small in-context evaluation of the teacher while it trains."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from densebench import catalog, options
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evaluation.protocol import Run
from densebench.numerics.arithmetic import float32
from densebench.results.score import Score

PROTOCOL = "incontext"


def parse(spec: str) -> tuple[str, int | None]:
    """`scenes` or `voc:200` as data set and limit. Raises UserError for a limit that is no number."""
    name, _, limit = spec.rpartition(":") if re.fullmatch("[0-9]{1,9}", spec.rpartition(":")[2]) else (spec, "", "")
    if limit and int(limit) < 2:
        raise UserError(f"--probe {spec}: the limit is the number of images of each split, at least 2")
    return name, int(limit) if limit else None


def probe(checkpoint: Path, spec: str, device: str, root: str | None = None) -> Score:
    """The protocol's headline for a checkpoint, all training images (up to the limit) in the memory.

    The features of a network that changes every step are of no use to anyone else: their cache is temporary.
    """
    name, limit = parse(spec)
    dataset = load_dataset(name, Path(root) if root else None)
    kind: Any = catalog.load("protocols", PROTOCOL)
    protocol = options.build(kind, kind.presets[next(iter(kind.presets))], {"fractions": (1,), "device": device})
    protocol = protocol.resolve(dataset)
    backbone = load_backbone(f"ckpt:{checkpoint}")
    before = os.environ.get("DENSEBENCH_CACHE")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DENSEBENCH_CACHE"] = cache
        try:
            with float32(tf32=False):
                scores = list(protocol.run(backbone, dataset, Run(limit)))
        finally:
            os.environ.pop("DENSEBENCH_CACHE")
            if before is not None:
                os.environ["DENSEBENCH_CACHE"] = before
    headline = protocol.headline()
    [score] = [s for s in scores if s.metric == headline["metric"] and s.variant == headline["variant"]]
    return score
