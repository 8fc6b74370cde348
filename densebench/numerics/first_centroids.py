"""The training points of K-means and its first centroids.

Random numbers are drawn on the CPU, so that a seed means the same on every device: all at once, to be copied to a GPU at once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sample(count: int, clusters: int, per_cluster: int | None, seed: int) -> Int[Tensor, "m"]:
    """Return the indices of the training points: `per_cluster` x `clusters`, drawn without replacement; None: all."""
    if per_cluster is None or count <= clusters * per_cluster:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: clusters * per_cluster]


def trained_on(points: Float[Tensor, "n d"], clusters: int, per_cluster: int | None, seed: int) -> Float[Tensor, "m d"]:
    """Return the training points, those of `sample`: the given tensor itself where all are used and it is contiguous.

    Raises ValueError where there are fewer points than clusters.
    """
    if clusters > len(points):
        raise ValueError(f"{clusters} clusters of {len(points)} points: give more points or fewer clusters")
    if per_cluster is None or len(points) <= clusters * per_cluster:
        return points.contiguous()
    return points[sample(len(points), clusters, per_cluster, seed).to(points.device)]


def first_points(
    points: Float[Tensor, "n d"], clusters: int, restarts: int, generator: torch.Generator
) -> Float[Tensor, "r k d"]:
    """Return distinct random points as first centroids, for each of r restarts."""
    chosen = [torch.randperm(len(points), generator=generator)[:clusters] for _ in range(restarts)]
    return points[torch.stack(chosen).to(points.device)]


def plus_plus(points: Float[Tensor, "n d"], clusters: int, restarts: int, generator: torch.Generator) -> Float[Tensor, "r k d"]:
    """Return first centroids by k-means++: each is a point, drawn in proportion to its squared distance from those before.

    Squared distances are rounded to integers before they are summed, so that sums are exact in whatever order a GPU adds. The
    unit is just large enough that no sum overflows.
    """
    original, points = points, points - points.mean(0)
    squares = points.square().sum(1)
    chosen = torch.randint(len(points), (restarts,), generator=generator).to(points.device)
    shares = torch.rand(clusters - 1, restarts, generator=generator, dtype=torch.float64).to(points.device)
    picked = [chosen]
    distance = torch.full((restarts, len(points)), torch.inf, dtype=points.dtype, device=points.device)
    for share in shares:
        newest = points[picked[-1]]
        to_newest = squares + newest.square().sum(1)[:, None] - 2 * newest @ points.T
        distance = torch.minimum(distance, to_newest.clamp(min=0))
        units = 2.0**62 / len(points) / distance.amax(1, keepdim=True).double().clamp(min=1e-38)
        cumulated = (distance * units).round_().long().cumsum(1)
        drawn = share * cumulated[:, -1]
        chosen = torch.searchsorted(cumulated, drawn.long()[:, None], right=True)[:, 0].clamp(max=len(points) - 1)
        picked.append(chosen)
    return original[torch.stack(picked, dim=1)]
