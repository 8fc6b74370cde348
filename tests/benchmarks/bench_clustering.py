"""K-means of several K and seeds against a faiss loop, and matchings against loops over pairs of classes, in one run.

1. K-means: Leopart's setting (5 restarts of at most 100 iterations on 256 random tokens a cluster, 50 dimensions) for every K and
   seed, ours against faiss on the same tokens. Inertias are printed: ours must not be more than 1 % above faiss'. On a GPU all
   seeds of a K are fitted in the same passes, and a second row fits the largest K on all of VOC's tokens, one restart a seed.
2. Matching: Hungarian, by precision and by IoU of 500 clusters to 171 classes from one confusion matrix, against the usual
   restatement that masks label maps once for every pair of class and cluster. The matchings are compared first.

    python tests/benchmarks/bench_clustering.py [--clusters 21,300,500] [--seeds 5] [--threads 1] [--device cpu]

The tokens are a mixture of 400 Gaussians of unequal weight and width, as many as VOC's validation images have at 448 px / 16.
"""

from __future__ import annotations

import argparse
import time

import faiss
import numpy as np
import torch

from densebench.numerics import segmentation
from densebench.numerics.first_centroids import sample
from densebench.numerics.kmeans import kmeans, kmeans_each

TOKENS, WIDTH, COMPONENTS = 1449 * 28 * 28 // 4, 50, 400
ALL_TOKENS = 4 * TOKENS
PIXELS = 200_000


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", default="21,300,500")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    return parser.parse_args()


def mixture(tokens=TOKENS):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(COMPONENTS, WIDTH, generator=generator)
    widths = 0.3 + torch.rand(COMPONENTS, 1, generator=generator)
    weights = torch.rand(COMPONENTS, generator=generator) ** 3
    chosen = torch.multinomial(weights, tokens, replacement=True, generator=generator)
    return centres[chosen] + widths[chosen] * torch.randn(tokens, WIDTH, generator=generator)


def by_faiss(points, k, seed):
    chosen = points[sample(len(points), k, 256, seed)].numpy()
    found = faiss.Kmeans(WIDTH, k, niter=100, nredo=5, seed=seed, max_points_per_centroid=256)
    found.train(chosen)
    distances, _ = found.index.search(chosen, 1)
    return float(distances.astype(np.float64).sum())


def clustering(arguments):
    points = mixture()
    there = points.to(arguments.device)
    kmeans(there[:1000], 5)
    totals = [0.0, 0.0]
    for k in (int(one) for one in arguments.clusters.split(",")):
        started = time.perf_counter()
        ours = [fit.inertia for fit in kmeans_each(((there, k, seed) for seed in range(arguments.seeds)), restarts=5)]
        middle = time.perf_counter()
        theirs = [by_faiss(points, k, seed) for seed in range(arguments.seeds)]
        seconds = middle - started, time.perf_counter() - middle
        totals = [a + b for a, b in zip(totals, seconds, strict=True)]
        ratio = sum(ours) / sum(theirs)
        print(f"  K {k:4}: ours {seconds[0]:7.1f} s, faiss {seconds[1]:7.1f} s, inertia ours / faiss {ratio:.4f}", flush=True)
        assert ratio < 1.01, (ours, theirs)
    print(f"  all    : ours {totals[0]:7.1f} s, faiss {totals[1]:7.1f} s   {totals[1] / totals[0]:.1f} times faster")


def on_all_tokens(arguments):
    """Print the seconds of the largest K on as many tokens as VOC's validation images have, from random points to the end."""
    points, k = mixture(ALL_TOKENS).to(arguments.device), max(int(one) for one in arguments.clusters.split(","))
    list(kmeans_each([(points, k, 0)], per_cluster=None, iterations=2))
    started = time.perf_counter()
    fits = list(kmeans_each(((points, k, seed) for seed in range(arguments.seeds)), per_cluster=None))
    seconds, passes = time.perf_counter() - started, sum(fit.iterations for fit in fits)
    flop = 2 * ALL_TOKENS * WIDTH * k * passes
    print(f"  K {k:4} on {ALL_TOKENS} tokens: {seconds:.2f} s, {passes} iterations, {flop / seconds / 1e12:.1f} TFLOP/s")


def pairwise(truth, clusters, classes, k):
    """Precision and IoU of every pair, each from masks of all pixels."""
    precision, iou = np.zeros((classes, k)), np.zeros((classes, k))
    for c in range(classes):
        of_class = truth == c
        for cluster in range(k):
            own = clusters == cluster
            both = np.count_nonzero(of_class & own)
            precision[c, cluster] = both / max(np.count_nonzero(own), 1)
            iou[c, cluster] = both / max(np.count_nonzero(of_class | own), 1)
    return precision.argmax(0), iou.argmax(0)


def matchings(classes=171, k=500):
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, PIXELS)
    clusters = np.where(generator.random(PIXELS) < 0.5, truth * 2, generator.integers(0, k, PIXELS)) % k
    started = time.perf_counter()
    confusion = torch.from_numpy(np.bincount(truth * k + clusters, minlength=classes * k)).view(classes, k)
    found = segmentation.many_to_one(confusion), segmentation.many_to_one(confusion, "iou"), segmentation.hungarian(confusion)
    middle = time.perf_counter()
    expected = pairwise(truth, clusters, classes, k)
    slow, fast = time.perf_counter() - middle, middle - started
    assert all(np.array_equal(one.numpy(), other) for one, other in zip(found, expected, strict=False))
    print(f"matching of {k} clusters and {classes} classes, {PIXELS} pixels")
    print(f"  pairs {1000 * slow:9.1f} ms (without Hungarian)")
    print(f"  ours  {1000 * fast:9.1f} ms (with it)   {slow / fast:.0f} times faster; equal")


def main():
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    print(f"K-means of {TOKENS} tokens of {WIDTH} dimensions, {arguments.seeds} seeds, {arguments.threads} threads")
    clustering(arguments)
    if arguments.device == "cuda":
        on_all_tokens(arguments)
    matchings()


if __name__ == "__main__":
    main()
