"""Probing: a small evaluation of the teacher while it trains, by the protocol that `densebench.evals.PROBE` names."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from densebench import catalog, options
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.errors import UserError
from densebench.evaluation.protocol import Run
from densebench.numerics.arithmetic import float32
from densebench.results.score import Score


def probe_protocol() -> tuple[str, dict[str, Any]]:
    """Return the name and the options of the protocol by which probes and sweeps are scored."""
    name, chosen = importlib.import_module("densebench.evals").PROBE
    return name, dict(chosen)


def parse(spec: str) -> tuple[str, int | None]:
    """Return the data set and the limit (None: no limit) of `scenes` or `voc:200`. Raises UserError for a limit below 2."""
    name, _, limit = spec.rpartition(":") if re.fullmatch("[0-9]{1,9}", spec.rpartition(":")[2]) else (spec, "", "")
    if limit and int(limit) < 2:
        raise UserError(f"--probe {spec}: the limit is the number of images of each split, at least 2")
    return name, int(limit) if limit else None


def probe(checkpoint: Path, spec: str, device: str, root: str | None = None) -> Score:
    """Return the headline score of a checkpoint by the probing protocol, on at most the limit of images of each split.

    spec: data set and limit, as in `parse`. root: folder of the data sets. Features are cached in a temporary folder, since
    nobody needs them again once the network has changed.
    """
    name, limit = parse(spec)
    dataset = load_dataset(name, Path(root) if root else None)
    protocol_name, chosen = probe_protocol()
    kind: Any = catalog.load("protocols", protocol_name)
    protocol = options.build(kind, kind.presets[next(iter(kind.presets))], {**chosen, "device": device})
    protocol = protocol.resolve(dataset)
    backbone = load_backbone(f"ckpt:{checkpoint}")
    with _temporary_cache(), float32(tf32=False):
        scores = list(protocol.run(backbone, dataset, Run(limit)))
    headline = protocol.headline()
    [score] = [score for score in scores if score.metric == headline["metric"] and score.variant == headline["variant"]]
    return score


@contextmanager
def _temporary_cache() -> Iterator[None]:
    before = os.environ.get("DENSEBENCH_CACHE")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DENSEBENCH_CACHE"] = cache
        try:
            yield
        finally:
            os.environ.pop("DENSEBENCH_CACHE")
            if before is not None:
                os.environ["DENSEBENCH_CACHE"] = before
