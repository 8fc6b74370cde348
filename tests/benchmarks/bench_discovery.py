"""TokenCut and LOST of many pictures: ours against a restatement of how the public code does it, picture by picture, in one run.

The restatement builds each picture's weights in numpy, solves the generalised eigenproblem for two eigenvalues by
`scipy.linalg.eigh`, and sums LOST's rows of the whole product. Ours cuts the pictures of one grid together: eigenvectors from a
block Krylov space. Both see the same made-up features, so boxes must be equal.

    python tests/benchmarks/bench_discovery.py [--grid 23x31] [--images 16] [--width 384] [--device cuda] [--threads 1]
    [--clock cpu]
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import scipy.linalg
import torch
from measuring import peak, settle
from scipy import ndimage

from densebench.evals.discovery.findings import box_of, component
from densebench.evals.discovery.graphs import cosines, products
from densebench.evals.discovery.lost import lost
from densebench.evals.discovery.tokencut import tokencut
from densebench.evals.discovery.views import Patches

TAU, CANDIDATES = 0.2, 100
BATCH = {"cpu": 8, "cuda": 256}


def made(images, rows, columns, width):
    """Features of an object of one kind on a ground of three kinds, with noise and what all patches share."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(images, 4, width, generator=generator)
    which = torch.randint(1, 4, (images, rows // 4 + 1, columns // 4 + 1), generator=generator)
    which = which.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :rows, :columns].clone()
    which[:, rows // 4 : rows // 2, columns // 4 : columns // 2] = 0
    chosen = kinds.gather(1, which.flatten(1)[:, :, None].expand(-1, -1, width))
    return chosen + 0.8 * torch.randn(images, rows * columns, width, generator=generator)


def ours(features, method, where, device):
    found = []
    for batch in features.split(BATCH[device.type]):
        batch = batch.to(device)
        cut = lost(products(batch), CANDIDATES) if method == "lost" else tokencut(cosines(batch), TAU)
        masks, seeds = cut.mask.cpu().numpy(), cut.seed.tolist()
        grid = (where.rows, where.columns)
        found += [box_of(component(mask.reshape(grid), seed), where) for mask, seed in zip(masks, seeds, strict=True)]
    return found


def naive(features, method, where, device):
    return [(naive_lost if method == "lost" else naive_tokencut)(own, where) for own in features]


def naive_tokencut(tokens, where):
    unit = torch.nn.functional.normalize(tokens, dim=1)
    weights = np.where((unit @ unit.T).numpy() > TAU, 1.0, 1e-5)
    degrees = np.diag(weights.sum(1))
    vector = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 2])[1][:, 0]
    size = np.abs(vector)
    mask, seed = vector > vector.mean(), int(np.flatnonzero(size > (1 - 1e-7) * size.max())[0])  # ties to the lowest, as ours
    return naive_box(mask if mask[seed] else ~mask, seed, where)


def naive_lost(tokens, where):
    product = tokens @ tokens.T
    others = product.clone().fill_diagonal_(0)
    degree = (others > 0).sum(1)
    order = degree.argsort(stable=True)
    alike = order[:CANDIDATES][product[order[0], order[:CANDIDATES]] > 0]
    return naive_box((product[alike].sum(0) > 0).numpy(), int(order[0]), where)


def naive_box(mask, seed, where):
    parts, _ = ndimage.label(mask.reshape(where.rows, where.columns))
    rows, columns = np.where(parts == parts.flat[seed])
    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return tuple(float(16 * end) for end in ends)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="23x31")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others work beside it")
    return parser.parse_args()


def main():
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    device, clock = torch.device(arguments.device), {"wall": time.perf_counter, "cpu": time.process_time}[arguments.clock]
    rows, columns = map(int, arguments.grid.split("x"))
    features = made(arguments.images, rows, columns, arguments.width)
    where = Patches(16 * columns, 16 * rows, rows, columns, 16.0, 16.0)
    print(f"{arguments.images} pictures of {rows} x {columns} patches, {device.type}, {arguments.clock} clock")
    print(f"{'':10} {'naive s':>9} {'ours s':>9} {'ratio':>7} {'naive MiB':>10} {'ours MiB':>9}")
    for method in ("tokencut", "lost"):
        boxes, seconds, memory = {}, {}, {}
        for name, side in (("naive", naive), ("ours", ours)):
            with torch.inference_mode():
                side(features[:1], method, where, device)  # libraries load
                before, started = settle(device), clock()
                boxes[name] = side(features, method, where, device)
                seconds[name], memory[name] = clock() - started, (peak(device) - before) / 2**20
        times, ratio = (seconds["naive"], seconds["ours"]), seconds["naive"] / seconds["ours"]
        print(f"{method:10} {times[0]:9.2f} {times[1]:9.2f} {ratio:7.1f} {memory['naive']:10.0f} {memory['ours']:9.0f}")
        if boxes["naive"] != boxes["ours"]:
            sys.exit("the two sides find other boxes: the ratio means nothing")
    print("boxes are equal")


if __name__ == "__main__":
    main()
