"""Matching keypoints of pairs: ours against a restatement of how public code does it, in one run.

The restatement is SD-DINO's: the cosine of every patch of the source with all patches of the target, one patch of the source
after the other; then those of the keypoints are looked up, and the whole similarity is thrown away. Ours reads features at the
keypoints alone, and scores the guesses without features beside. Both match the same made-up features under the same preset, so
the hits of each pair must be equal. Then the rest of the scores (five averages, three guesses, their bootstraps) is timed.

    python tests/benchmarks/bench_correspondence.py [--grid 60] [--width 384] [--pairs 10] [--points 12] [--device cpu]

The backbone is left out: it is the same for both.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from densebench.datasets.dataset import Item
from densebench.datasets.keypoints import KeypointPairs, Pair
from densebench.evals.correspondence import Correspondence
from densebench.evals.correspondence.outcomes import Matcher
from densebench.evals.correspondence.pairs import parts_of
from densebench.evals.correspondence.scoring import FEATURES, Scorer
from densebench.features.padded_views import PaddedView

STRIDE = 14
ALPHAS = (0.05, 0.1)


@dataclass(frozen=True, kw_only=True)
class Pictures(KeypointPairs):
    """Squares without pixels."""

    side: int = 0

    def image_size(self, item):
        return self.side, self.side


class Grids(dict):
    """Features by picture: those of pair n's target are its source's, moved and with noise."""

    def __init__(self, arguments):
        generator = torch.Generator().manual_seed(0)
        shape = (arguments.grid, arguments.grid, arguments.width)
        for number in range(arguments.pairs):
            source = torch.randn(shape, generator=generator)
            noise = torch.randn(shape, generator=generator)
            self[Item(f"s{number}", None, None)] = source
            self[Item(f"t{number}", None, None)] = source.roll((3, 5), (0, 1)) + 6.0 * noise


def made_pairs(arguments):
    rng, side = np.random.default_rng(0), arguments.grid * STRIDE
    for number in range(arguments.pairs):
        items = [Item(f"{kind}{number}", None, None) for kind in "st"]
        points = rng.uniform(0, side - 6 * STRIDE, (arguments.points, 2))
        truth = points + STRIDE * np.array([5.0, 3.0])
        box = (0.0, 0.0, side / 2, side / 2)
        yield Pair(str(number), *items, f"class {number % 4}", points, truth, np.arange(len(points)), box, box)


def naive(pairs, grids, arguments):
    """Hits of each pair at each threshold."""
    found, count = [], arguments.grid
    cosine = torch.nn.CosineSimilarity(dim=1)
    for pair in pairs:
        source, target = (grids[item].to(arguments.device).flatten(0, 1) for item in (pair.source, pair.target))
        similarity = torch.stack([cosine(patch[None], target) for patch in source])
        cells = (count / (count * STRIDE) * pair.source_points.astype(np.float32)).astype(np.int32)
        best = similarity[torch.from_numpy(count * cells[:, 1] + cells[:, 0]).to(arguments.device)].argmax(1).cpu()
        predicted = torch.stack([best % count, best // count], 1) * STRIDE + STRIDE // 2 - 0.5
        errors = (predicted - torch.from_numpy(pair.target_points)).norm(dim=1)
        found.append([int((errors < alpha * count * STRIDE / 2).sum()) for alpha in ALPHAS])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, default=60, help="patches to a side")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs, grids = list(made_pairs(arguments)), Grids(arguments)
    rules = Correspondence(**{**Correspondence.presets["sd-dino"], "alphas": ALPHAS}).rules()
    side = arguments.grid * STRIDE
    view = PaddedView(STRIDE, side, "square-centre", "lanczos")
    matcher = Matcher(rules, Pictures(root=Path(), side=side), view, view.stride, [grids], torch.device(arguments.device))
    matcher.outcomes(pairs[:1])
    seconds = []
    for work in (lambda: matcher.outcomes(pairs), lambda: naive(pairs, grids, arguments)):
        started = time.perf_counter()
        seconds.append((work(), time.perf_counter() - started))
    (ours, quick), (theirs, slow) = seconds
    assert [outcome.hits[FEATURES].astype(int).tolist() for outcome in ours] == theirs, "the hits differ"
    started = time.perf_counter()
    scorer = Scorer(dict(enumerate(ours)), [pair.category for pair in pairs], parts_of(pairs, None), "point-class")
    count = sum(1 for number, alpha in enumerate(ALPHAS) for _ in scorer.scores(number, alpha, {}))
    scoring = time.perf_counter() - started
    right = sum(hits[1] for hits in theirs)
    shape = f"{arguments.grid} x {arguments.grid} patches of width {arguments.width}, {arguments.points} keypoints"
    print(f"{len(pairs)} pairs, {shape}; equal hits: {right} of {len(pairs) * arguments.points} at {ALPHAS[1]}")
    each = [1000 * taken / len(pairs) for taken in (slow, quick)]
    print(f"restatement {each[0]:.1f} ms a pair, ours {each[1]:.1f} ms a pair: {slow / quick:.1f} x")
    print(f"{count} scores with their bootstraps: {scoring:.2f} s")


if __name__ == "__main__":
    main()
