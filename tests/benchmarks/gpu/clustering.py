"""K-means at the size of VOC's patches in 50 dimensions, and the counting of label maps."""

from __future__ import annotations

import time

import torch
from timing import settle

from densebench.numerics.kmeans import kmeans

SEEDS = 5


def clustering(bench):
    points = torch.randn(bench.size(1_100_000, 3000), 50, device=bench.device)
    for clusters, per_cluster, expected in ((500, None, 10), (500, 256, 1.5), (21, None, 1)):
        began = time.perf_counter()
        one = kmeans(
            points,
            bench.size(clusters, min(clusters, 30)),
            restarts=SEEDS,
            per_cluster=per_cluster,
            iterations=bench.size(100, 5),
        )
        settle(bench)
        each = time.perf_counter() - began
        again = kmeans(points, len(one.centroids), restarts=SEEDS, per_cluster=per_cluster, iterations=bench.size(100, 5))
        used = "all points" if per_cluster is None else f"{per_cluster} points a cluster"
        note = f"{one.iterations} iterations of the best; twice the same: {torch.equal(one.centroids, again.centroids)}"
        bench.add("kmeans", f"{len(points)} x 50, K = {len(one.centroids)}, {SEEDS} restarts, {used}", each, "s", expected, note)
