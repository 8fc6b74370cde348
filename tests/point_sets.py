"""Sets of points for tests of K-means, and what is measured on them by loops."""

from __future__ import annotations

import numpy as np
import torch

from densebench.numerics import kmeans as clustering
from densebench.numerics import lloyd as passes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def blobs(n, d, centres, spread, seed=0):
    """Points around random centres, and the blob of each."""
    where = torch.arange(n) % centres
    return normal(centres, d, seed=seed)[where] * spread + normal(n, d, seed=seed + 1), where


def distances(points, centroids):
    """[n, k] squared distances, float64, by subtraction."""
    return (points.double()[:, None] - centroids.double()[None]).square().sum(-1)


def inertia_of(points, centroids):
    return distances(points, centroids).min(1).values.sum().item()


def unit(vectors):
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def lloyd(points, centroids, updates=200, spherical=False):
    """[(inertia, centroids)] before any update, after one, two, ...; for data in which no cluster becomes empty."""
    points, centroids, states = points.double(), centroids.double(), []
    for _ in range(updates + 1):
        centroids = unit(centroids) if spherical else centroids
        states.append((inertia_of(points, centroids), centroids))
        nearest = distances(points, centroids).argmin(1)
        centroids = torch.stack([points[nearest == cluster].mean(0) for cluster in range(len(centroids))])
        assert centroids.isfinite().all(), "an empty cluster: this data does not suit the plain loop"
    return states


def stopped(states, tolerance):
    """The index of the first state whose inertia is less than the share `tolerance` below the one before."""
    return next(i for i in range(1, len(states)) if states[i - 1][0] - states[i][0] < tolerance * states[i - 1][0])


def same_partition(one, other):
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def start_from(monkeypatch, centroids):
    """Every fit starts at these centroids."""
    monkeypatch.setattr(clustering, "first_points", lambda points, clusters, restarts, generator: centroids[None].to(points.rows))


def heavy_tailed(n, d):
    return torch.from_numpy(np.random.default_rng(0).standard_t(3, (n, d)).astype(np.float32))


SETS = {
    "blobs": lambda: blobs(2000, 8, 30, 1.5)[0],
    "uniform": lambda: torch.rand(2000, 4, generator=seeded()),
    "heavy-tailed": lambda: heavy_tailed(2000, 4),
    "skewed scales": lambda: normal(2000, 6) * 0.5 ** torch.arange(6),
}


def as_on_a_gpu(monkeypatch):
    """Tensors of the CPU go the way of a GPU's, in groups without a bound."""
    for module in (passes, clustering):
        monkeypatch.setattr(module, "is_asynchronous", lambda _: True)
    monkeypatch.setattr(clustering, "memory_budget", lambda _: 2**40)
