"""Matches by the ratio test: ours against a naive restatement, in one run.

The restatement holds the whole matrix of cosines, sorts each row, weighs the two greatest and sorts the weights. Ours searches in
blocks and never holds the matrix. Both match the same made-up features, so matches and weights must be equal.

    python tests/benchmarks/bench_geometric_correspondence.py [--points 8192] [--width 384] [--kept 1000] [--threads 1]

Peak memory is what a side needs above what is held before it.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
import torch.nn.functional as F
from measuring import peak, settle

CPU = torch.device("cpu")


def ours(source, target, kept):
    from densebench.evals.geometric_correspondence.matching import largest, ratio_weights, two_nearest

    distances, match = two_nearest(source, target)
    weights = ratio_weights(distances)
    chosen = largest(weights, kept)
    return chosen, match[chosen], weights[chosen]


def naive(source, target, kept):
    cosines = F.normalize(source, dim=1) @ F.normalize(target, dim=1).T
    values, order = cosines.sort(dim=1, descending=True, stable=True)
    near, second = (1 - values[:, :2]).clamp(min=1e-9).unbind(1)
    weights, chosen = (1 - near / second).sort(descending=True, stable=True)
    return chosen[:kept], order[chosen[:kept], 0], weights[:kept]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--kept", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(arguments.points, arguments.width, generator=generator)
    source = target[torch.randperm(arguments.points, generator=generator)]
    source = source + 0.8 * torch.randn(source.shape, generator=generator)
    ours(source[:64], target[:64], 8)
    found, seconds, held = {}, {}, {}
    for name, work in (("naive", naive), ("ours", ours)):
        before, started = settle(CPU), time.perf_counter()
        found[name] = work(source, target, arguments.kept)
        seconds[name], held[name] = time.perf_counter() - started, (peak(CPU) - before) / 2**20
    print(f"{arguments.points} points of width {arguments.width} on each side, {arguments.kept} kept")
    print(f"{'':10} {'naive':>10} {'ours':>10} {'ratio':>8}")
    for what, values in (("seconds", seconds), ("peak MiB", held)):
        print(f"{what:10} {values['naive']:10.2f} {values['ours']:10.2f} {values['naive'] / max(values['ours'], 1e-9):8.1f}")
    same = [
        bool((first == second).float().mean() > 0.999)
        for first, second in zip(*(each[:2] for each in found.values()), strict=True)
    ]
    if not all(same) or not torch.allclose(found["naive"][2], found["ours"][2], atol=1e-5):
        sys.exit("the two sides disagree: the ratio means nothing")
    print("equal matches and weights")


if __name__ == "__main__":
    main()
