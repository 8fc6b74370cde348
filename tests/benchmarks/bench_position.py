"""Positions read from features, and features debiased: ours against a plain restatement, in one run.

The read-out: the restatement removes directions from one picture after the other with numpy, holds all patches at once, solves an
augmented least-squares problem, and reads each picture. Ours adds up sums, some pictures at a time, in bounded memory, and solves
the normal equations. Both see the same made-up features, so R^2 must be equal.

Debiasing: the restatement computes the directions of noise anew for every batch. Ours computes them once for every size.

    python tests/benchmarks/bench_position.py [--pictures 100] [--grid 16] [--width 384] [--removed 20] [--clock cpu]
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from measuring import peak, settle
from torch.nn.functional import normalize

from densebench.backbones.debiased import debiased, directions_at
from densebench.backbones.loading import load_backbone
from densebench.datasets.dataset import Item
from densebench.evals.position.reading import Grids
from densebench.numerics.positional import without_directions

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CPU, L2, BATCHES, SIDE = torch.device("cpu"), 1e-3, 8, 128


class Made:
    """Features of pictures, made when they are asked for: noise and a position."""

    def __init__(self, grid, width):
        generator = torch.Generator().manual_seed(0)
        self.grid, self.width, self.place = grid, width, torch.randn(2, width, generator=generator)

    def __getitem__(self, item):
        noise = torch.randn(self.grid, self.grid, self.width, generator=torch.Generator().manual_seed(int(item.name)))
        row, column = torch.meshgrid(*2 * [torch.linspace(-1, 1, self.grid)], indexing="ij")
        return noise + 0.05 * torch.stack([row, column], dim=-1) @ self.place


def ours(made, fit, read, directions):
    grids = Grids(made, (made.grid, made.grid), CPU, directions)
    return float(1 - grids.errors(read, grids.sums(fit), L2).missed.mean())


def naive(made, fit, read, directions):
    basis, centre = directions.numpy(), (np.arange(made.grid) + 0.5) / made.grid
    truth = np.stack(np.meshgrid(centre, centre, indexing="ij"), axis=-1).reshape(-1, 2)

    def of(item):
        rows = made[item].flatten(0, 1).double().numpy()
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows - rows @ basis @ basis.T
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    rows = np.concatenate([of(item) for item in fit])
    ridge = np.sqrt(L2 * rows.var(axis=0).mean() * len(rows))
    left = np.block([[rows, np.ones((len(rows), 1))], [ridge * np.eye(made.width), np.zeros((made.width, 1))]])
    right = np.concatenate([np.tile(truth, (len(fit), 1)), np.zeros((made.width, 2))])
    solved = np.linalg.lstsq(left, right, rcond=None)[0]
    missed = np.mean([((of(item) @ solved[:-1] + solved[-1] - truth) ** 2).sum(axis=0) for item in read], axis=0)
    return float(np.mean(1 - missed / ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)))


def debiased_once(backbone, batches):
    without = debiased(backbone, 20)
    return [without(batch) for batch in batches]


def debiased_anew(backbone, batches):
    found = []
    for batch in batches:
        directions = directions_at(backbone, SIDE, SIDE, CPU, 20, "noise").float()
        found.append(without_directions(normalize(backbone(batch), dim=1).movedim(1, -1), directions).movedim(-1, 1))
    return found


def timed(clock, work, *given):
    before, started = settle(CPU), clock()
    found = work(*given)
    return found, clock() - started, (peak(CPU) - before) / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("pictures", 100), ("grid", 16), ("width", 384), ("removed", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others work beside it")
    arguments = parser.parse_args()
    clock, made = CLOCKS[arguments.clock], Made(arguments.grid, arguments.width)
    items = [Item(str(number), None, None) for number in range(2 * arguments.pictures)]
    fit, read = items[: arguments.pictures], items[arguments.pictures :]
    basis = torch.linalg.qr(torch.randn(arguments.width, arguments.removed, dtype=torch.float64)).Q
    backbone, batches = load_backbone("random:test_vit"), torch.randn(BATCHES, 4, 3, SIDE, SIDE)
    print(f"{2 * arguments.pictures} pictures of {arguments.grid}^2 patches, width {arguments.width}, {arguments.clock} clock")
    print(f"{'':12} {'naive s':>10} {'ours s':>10} {'ratio':>8} {'naive MiB':>10} {'ours MiB':>10}")
    with torch.inference_mode():
        for name, sides, given in (
            ("read-out", (ours, naive), (made, fit, read, basis)),
            ("debias", (debiased_once, debiased_anew), (backbone, batches)),
        ):
            (one, fast, small), (other, slow, large) = (timed(clock, side, *given) for side in sides)
            apart = (
                abs(one - other)
                if name == "read-out"
                else max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
            )
            ratios = f"{slow:10.2f} {fast:10.2f} {slow / fast:8.1f} {large:10.0f} {small:10.0f}"
            print(f"{name:12} {ratios}   differ by {apart:.1e} at most")
            if apart > 1e-4:
                sys.exit("the two sides disagree: the ratio means nothing")


if __name__ == "__main__":
    main()
