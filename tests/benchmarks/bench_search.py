"""Exact search of many subsets of one memory: ours against a naive restatement, in one run, on the same rows.

The restatement multiplies chunks of queries with the rows of one subset and takes `torch.topk`, once a subset. The subsets are
those of an evaluation: all images, and for every other fraction one nested choice of images a seed.

    python tests/benchmarks/bench_search.py [--queries 4096] [--images 1024] [--patches 196] [--fractions 1,8,64,128] [--seeds 5]
        [--device cuda] [--first-pass fp16] [--shared 30]

Prints the seconds of both sides, and of ours for the largest subset alone, each the best of --repeats; after two passes also how
many queries needed more candidates, and how many the plain search at last. Stops with an error where scores or neighbours differ
by more than the rounding of float32. Random rows are far apart, so that nearly every query is proven at once; --shared brings
them together.
"""

from __future__ import annotations

import argparse
import time
from typing import get_args

import torch
import torch.nn.functional as F

from densebench.numerics.search import Search
from densebench.numerics.search.bounds import Precision

CHUNK = 256  # queries multiplied at once by the restatement
ROUNDING = 1e-4  # of the sums of float32 products of rows of length 1, with room


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"queries": 4096, "images": 1024, "patches": 196, "dim": 384, "k": 30, "seeds": 5, "repeats": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fractions", default="1,8,64,128")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--first-pass", choices=["auto", "none", *get_args(Precision)], default="auto")
    parser.add_argument("--shared", type=float, default=0.0, help="length of a vector that is added to all rows of length 1")
    parser.add_argument("--metric", choices=["dot", "l2"], default="dot")
    return parser.parse_args()


def members(images, fractions, seeds):
    """Which images each subset holds: nested by seed, everything once."""
    ranks = [torch.randperm(images, generator=torch.Generator().manual_seed(seed)) for seed in range(seeds)]
    subsets = [ranks[0] < images] if 1 in fractions else []
    subsets += [rank < max(1, images // fraction) for fraction in fractions if fraction > 1 for rank in ranks]
    return torch.stack(subsets)


def naive(queries, memory, held, k, metric):
    """Score `[s q k]` and row `[s q k]`, one subset after the other."""
    found = []
    for rows in (one.nonzero()[:, 0] for one in held):
        keys = memory[rows]
        parts = []
        for chunk in queries.split(CHUNK):
            product = chunk @ keys.T
            if metric == "l2":
                product = 2 * product - keys.square().sum(1) - chunk.square().sum(1)[:, None]
            parts.append(product.topk(k, dim=1))
        found.append((torch.cat([part.values for part in parts]), rows[torch.cat([part.indices for part in parts])]))
    return torch.stack([score for score, _ in found]), torch.stack([row for _, row in found])


def finished(device):
    """Wait until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work, repeats, device):
    """The best time of `repeats`, and the result."""
    best = float("inf")
    for _ in range(repeats):
        finished(device)
        started = time.perf_counter()
        result = work()
        finished(device)
        best = min(best, time.perf_counter() - started)
    return best, result


def check(ours, theirs, queries, memory, held, metric):
    """Both lists have the same scores; each of our rows is in its subset, is listed once and has the score that is claimed."""
    score, row = theirs
    torch.testing.assert_close(ours.score, score, atol=ROUNDING, rtol=0)
    for s, inside in enumerate(held):
        assert inside[ours.index[s]].all(), "a row from outside the subset"
        assert (ours.index[s].sort(1).values.diff(dim=1) > 0).all(), "a row twice"
        for part in torch.arange(len(queries)).split(CHUNK):
            asked, keys = queries[part, None].double(), memory[ours.index[s, part]].double()
            exact = (asked * keys).sum(2) if metric == "dot" else -(asked - keys).square().sum(2)
            torch.testing.assert_close(ours.score[s, part].double(), exact, atol=ROUNDING, rtol=0)
    return float((ours.index == row).float().mean())


def points(count, arguments, generator):
    """Random rows of length 1, closer together the longer the vector is that they share."""
    rows = F.normalize(torch.randn(count, arguments.dim, generator=generator), dim=1)
    if arguments.shared:
        rows = F.normalize(rows + arguments.shared * F.normalize(torch.ones(arguments.dim), dim=0), dim=1)
    return rows.to(arguments.device)


def main():
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    generator, device = torch.Generator().manual_seed(0), torch.device(arguments.device)
    rows = arguments.images * arguments.patches
    memory, queries = points(rows, arguments, generator), points(arguments.queries, arguments, generator)
    subsets = members(arguments.images, [int(f) for f in arguments.fractions.split(",")], arguments.seeds)
    segments = torch.full((arguments.images,), arguments.patches)
    held = torch.repeat_interleave(subsets, segments, dim=1).to(device)
    where = f"{arguments.threads} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"{len(queries)} queries, {rows} x {arguments.dim}, k {arguments.k}, {len(subsets)} subsets, {where}")

    def ours(which):
        search = Search(memory, segments, which, metric=arguments.metric, first_pass=arguments.first_pass)
        return search, search.search(queries, arguments.k)

    alone, _ = timed(lambda: ours(subsets[subsets.sum(1).argmax()][None]), arguments.repeats, device)
    slow, theirs = timed(lambda: naive(queries, memory, held, arguments.k, arguments.metric), arguments.repeats, device)
    fast, (search, found) = timed(lambda: ours(subsets), arguments.repeats, device)
    same = check(found, theirs, queries, memory, held, arguments.metric)
    print(f"naive, once a subset        {slow:8.2f} s")
    print(f"ours, all subsets           {fast:8.2f} s   {slow / fast:.2f} times faster")
    print(f"ours, the largest alone     {alone:8.2f} s   all subsets cost {fast / alone:.2f} of it")
    if search.widened is not None:
        print(f"after two passes {search.widened} queries needed more candidates, {search.fallbacks} the plain search")
    print(f"equal scores; {100 * same:.3f} % of neighbours at the same rank, the rest are ties within rounding")


if __name__ == "__main__":
    main()
