"""K-means at the size of VOC's patches in 50 dimensions, and the counting of label maps."""

from __future__ import annotations

import time

import torch
from timing import seconds, settle

from densebench.numerics.kmeans import kmeans_each
from densebench.numerics.segmentation import counted_pairs

SEEDS = 5
PATCHES, WIDTH = 1_100_000, 50


def clustering(bench):
    """Five seeds of one K in the same passes, as an evaluation asks for them."""
    points = torch.randn(bench.size(PATCHES, 3000), WIDTH, device=bench.device)
    iterations = bench.size(100, 5)
    for clusters, per_cluster, expected in ((500, None, 2), (500, 256, 1), (21, None, 0.5)):
        k = bench.size(clusters, min(clusters, 30))

        def fits(k=k, per_cluster=per_cluster):
            problems = [(points, k, seed) for seed in range(SEEDS)]
            return list(kmeans_each(problems, iterations=iterations, per_cluster=per_cluster, tolerance=0.0))

        began = time.perf_counter()
        one = fits()
        settle(bench)
        each = time.perf_counter() - began
        same = all(torch.equal(a.centroids, b.centroids) for a, b in zip(one, fits(), strict=True))
        used = "all points" if per_cluster is None else f"{per_cluster} points a cluster"
        note = f"{max(fit.iterations for fit in one)} iterations; the same clusters again: {same}"
        bench.add("kmeans", f"{len(points)} x {WIDTH}, K = {k}, {SEEDS} seeds, {used}", each, "s", expected, note)


def counting(bench):
    """Label maps of 16 subsets beside the truth of one image."""
    side, subsets = bench.size(512, 64), 16
    for classes, expected in ((21, 0.5), (151, 0.5)):
        truth = torch.randint(0, classes, (side, side), device=bench.device).to(torch.uint8)
        maps = torch.randint(0, classes, (subsets, side, side), device=bench.device).to(torch.uint8)
        each = seconds(bench, lambda maps=maps, truth=truth, classes=classes: counted_pairs(maps, truth, classes), 10, 2)
        bench.add("counting", f"pairs of {classes} classes at {side} px, {subsets} subsets", each * 1e3, "ms", expected)
