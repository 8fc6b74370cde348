"""Seconds of the first and of later probes, and of calling `evaluate` anew, for the same network, images and protocol.

    python tests/benchmarks/bench_probe.py [--dataset voc --data-root DATA] [--arch vit_small_patch16_224] [--limit 64]

Every call scores other weights, as in a training, so that no feature of an earlier call can be used again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

import densebench
from densebench.torchvision_ops import make_importable

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--data-root")
    parser.add_argument("--protocol", default="incontext")
    parser.add_argument("--arch", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--calls", type=int, default=4)
    asked = parser.parse_args()
    make_importable()
    import timm

    from densebench import catalog, options
    from densebench.evaluation.protocol import Run

    def changed(model):
        """Other weights, as after a step."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.001)

    def seconds(work):
        started = time.perf_counter()
        value = work()
        return time.perf_counter() - started, value

    def anew():
        """The protocol as `evaluate` runs it: a backbone of the module, and features that go to the disk and come from there."""
        dataset = densebench.load_dataset(asked.dataset, Path(asked.data_root) if asked.data_root else None)
        evaluator = options.build(kind, kind.presets[next(iter(kind.presets))], size).resolve(dataset)
        scores = list(evaluator.run(densebench.load_backbone(model), dataset, Run(asked.limit)))
        wanted = evaluator.headline()
        return next(score.value for score in scores if {"metric": score.metric, "variant": score.variant} == wanted)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["DENSEBENCH_CACHE"] = folder
        model = timm.create_model(asked.arch)
        kind, size = catalog.load("protocols", asked.protocol), {"image_size": asked.image_size} if asked.image_size else {}
        probe = densebench.Probe(asked.dataset, asked.protocol, limit=asked.limit, data_root=asked.data_root, **size)
        later, fresh = [], []
        seconds(anew)  # imports, and the page cache of the images
        first, _ = seconds(lambda: probe(model, 0))
        for step in range(1, asked.calls):
            changed(model)
            (fast, one), (slow, other) = seconds(lambda step=step: probe(model, step)), seconds(anew)
            assert one == other, (one, other)
            later.append(fast)
            fresh.append(slow)
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / 2**20
    fast, slow = statistics.median(later), statistics.median(fresh)
    print(f"{asked.protocol} on {asked.limit} images a split of {asked.dataset}, {asked.arch}:")
    print(f"first probe {first:.2f} s, later {fast:.2f} s; evaluated anew {slow:.2f} s ({disk:.0f} MiB of features on disk)")
    print(f"a later probe takes {fast / slow:.2f} of the time")
