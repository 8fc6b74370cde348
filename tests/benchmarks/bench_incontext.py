"""In-context retrieval end to end: ours against a naive restatement of how the public reference does it, in one run.

The restatement extracts features anew for every fraction and seed, one-hot encodes label maps, scores every query against the
whole memory, gathers the k key vectors of every query, upsamples every class, keeps all predictions, and counts pixels by one
boolean map a class and pair of classes. Both use the same subsets, views and settings, so the mIoU must be equal.

    python tests/benchmarks/bench_incontext.py [--dataset scenes] [--backbone random:vit_tiny_patch16_224] [--fractions 2,8,32]

Each side runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

STAGES = ("labels", "features", "memory", "search", "metrics")


def options(arguments):
    from densebench import options as densebench_options
    from densebench.evals.incontext.protocol import InContext

    given = {"fractions": arguments.fractions, "seeds": arguments.seeds, "augment_epochs": 0, "image_size": arguments.image_size}
    given["memory_size"] = None
    return densebench_options.build(InContext, {}, given)


def opened(arguments):
    from densebench import load_backbone, load_dataset

    weights = Path(arguments.weights) if arguments.weights else None
    dataset = load_dataset(arguments.dataset, Path(arguments.data_root) if arguments.data_root else None)
    return load_backbone(arguments.backbone, weights=weights), dataset


def ours(arguments):
    from densebench.evaluation.protocol import Run

    backbone, dataset = opened(arguments)
    evaluator, run = options(arguments).resolve(dataset), Run(limit=arguments.limit, progress_key="benchmark")
    scores = [score for score in evaluator.run(backbone, dataset, run) if (score.metric, score.variant) == ("miou", "identity")]
    return [score.value for score in scores], run.seconds


def naive(arguments):
    import torch

    from densebench.datasets.dataset import limited

    backbone, dataset = opened(arguments)
    evaluator = options(arguments).resolve(dataset)
    train, val = (limited(dataset.items(split), arguments.limit) for split in evaluator.splits(dataset))
    points = evaluator.points(dataset)
    seconds: dict[str, float] = defaultdict(float)
    values = []
    with torch.inference_mode():
        for chosen in evaluator.choose(dataset, train, points):
            subset = [item for item, inside in zip(train, chosen, strict=True) if inside]
            values.append(naive_run(evaluator, backbone, dataset, subset, val, seconds))
    return values, seconds


@contextmanager
def timed(seconds, stage):
    started = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - started


def naive_run(evaluator, backbone, dataset, subset, val, seconds):
    """One fraction and one seed."""
    import torch
    import torch.nn.functional as F

    from densebench.features.extract import Normalisation

    view = evaluator.query_view(backbone, dataset)
    normalisation = Normalisation(backbone.mean, backbone.std)
    classes, k = len(dataset.classes), evaluator.neighbours[0]

    def features(items):
        grids = []
        for start in range(0, len(items), evaluator.batch_size):
            batch = items[start : start + evaluator.batch_size]
            images = torch.stack([view.image(dataset.image(item), dataset.image_digest(item)) for item in batch])
            grids.append(backbone(normalisation(images)).movedim(1, -1))
        return torch.cat(grids)

    def masks(items):
        return torch.stack([view.label(dataset.label(item), dataset.image_digest(item)) for item in items])

    with timed(seconds, "features"):
        keys, queries = features(subset), features(val)
    with timed(seconds, "labels"):
        memory_masks, truth = masks(subset), masks(val)
    with timed(seconds, "memory"):
        b, h, w = memory_masks.shape
        p = view.stride
        patches = memory_masks.view(b, h // p, p, w // p, p).transpose(2, 3).reshape(-1, p * p).long()
        void = patches >= classes
        one_hot = F.one_hot(patches.masked_fill(void, 0), classes).float() * ~void[..., None]
        labels = one_hot.sum(1) / (~void).sum(1, keepdim=True).clamp(min=1)
        kept = (~void).any(1)
        keys, labels = F.normalize(keys.flatten(0, 2), dim=1)[kept], labels[kept]
    predictions = []
    for grid in queries:
        with timed(seconds, "search"):
            q = F.normalize(grid.flatten(0, 1), dim=1)
            index = (q @ keys.T).topk(k, dim=1).indices
            key_features, key_labels = keys[index], labels[index]
            weights = (torch.einsum("qd,qkd->qk", q, key_features) / evaluator.temperature).softmax(1)
            scores = torch.einsum("qk,qkc->qc", weights, key_labels)
            maps = scores.view(1, *grid.shape[:2], classes).permute(0, 3, 1, 2)
            predictions.append(F.interpolate(maps, (h, w), mode="bilinear").argmax(1))
    with timed(seconds, "metrics"):
        predicted, truth = torch.cat(predictions).flatten(), truth.flatten().long()
        predicted, truth = predicted[truth != 255], truth[truth != 255]
        ious = []
        for c in range(classes):
            pairs = [((truth == c) & (predicted == other)).sum() for other in range(classes)]  # for Hungarian matching
            union = ((truth == c) | (predicted == c)).sum()
            if union:
                ious.append(pairs[c] / union)
        return 100 * float(torch.stack(ious).mean())


def measure(side, arguments):
    """Run one side in a fresh process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--side", side, *sys.argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "DENSEBENCH_CACHE": cache}, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--data-root")
    parser.add_argument("--backbone", default="random:vit_tiny_patch16_224")
    parser.add_argument("--weights")
    parser.add_argument("--fractions", default="2,8,32")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--side", choices=("ours", "naive"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        started = time.perf_counter()
        values, seconds = {"ours": ours, "naive": naive}[arguments.side](arguments)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps({"values": values, "seconds": {**seconds, "total": time.perf_counter() - started}, "mb": memory}))
        return
    found = {side: measure(side, arguments) for side in ("ours", "naive")}
    apart = max(abs(a - b) for a, b in zip(found["ours"]["values"], found["naive"]["values"], strict=True))
    print(f"{arguments.backbone} on {arguments.dataset}, fractions {arguments.fractions} x {arguments.seeds} seeds")
    print(f"{'stage':10} {'naive s':>10} {'ours s':>10} {'ratio':>8}")
    for stage in (*STAGES, "total"):
        slow, fast = (found[side]["seconds"].get(stage, 0.0) for side in ("naive", "ours"))
        print(f"{stage:10} {slow:10.2f} {fast:10.2f} {slow / max(fast, 1e-9):8.1f}")
    slow, fast = (found[side]["mb"] for side in ("naive", "ours"))
    print(f"{'peak MiB':10} {slow:10.0f} {fast:10.0f} {slow / fast:8.1f}")
    print(f"mIoU: {len(found['ours']['values'])} scores, the largest difference is {apart:.4f} points")
    if apart > 0.02:
        sys.exit("the two sides disagree: the ratio means nothing")


if __name__ == "__main__":
    main()
