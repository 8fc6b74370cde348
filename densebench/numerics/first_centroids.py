"""The training points of K-means and its first centroids.

Random numbers are drawn on the CPU, so that a seed means the same on every device: all at once, to be copied to a GPU at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from densebench.numerics.dealt_points import Deal, DealtPoints, whole
from densebench.processes import rank, total


def sample(count: int, clusters: int, per_cluster: int | None, seed: int) -> Int[Tensor, "m"]:
    """Return the indices of the training points: `per_cluster` x `clusters`, drawn without replacement; None: all."""
    if per_cluster is None or count <= clusters * per_cluster:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: clusters * per_cluster]


def trained_on(points: Float[Tensor, "n d"] | DealtPoints, clusters: int, per_cluster: int | None, seed: int) -> DealtPoints:
    """Return the training points, those of `sample`: with the given tensor itself where all are used and it is contiguous.

    Raises ValueError where there are fewer points than clusters.
    """
    if clusters > len(points):
        raise ValueError(f"{clusters} clusters of {len(points)} points: give more points or fewer clusters")
    points = whole(points)
    if per_cluster is None or len(points) <= clusters * per_cluster:
        return points.in_even_runs
    return points.take(sample(len(points), clusters, per_cluster, seed))


def first_points(
    points: Float[Tensor, "n d"] | DealtPoints, clusters: int, restarts: int, generator: torch.Generator
) -> Float[Tensor, "r k d"]:
    """Return distinct random points as first centroids, for each of r restarts."""
    points = whole(points)
    chosen = [torch.randperm(len(points), generator=generator)[:clusters] for _ in range(restarts)]
    return points[torch.stack(chosen).to(points.rows.device)]


def plus_plus(
    points: Float[Tensor, "n d"] | DealtPoints, clusters: int, restarts: int, generator: torch.Generator
) -> Float[Tensor, "r k d"]:
    """Return first centroids by k-means++: each is a point, drawn in proportion to its squared distance from those before.

    Squared distances are rounded to integers before they are summed, so that sums are exact in whatever order a GPU adds, and
    however points are dealt out to processes. The unit is just large enough that no sum overflows.
    """
    original = whole(points)
    rows = original.rows - original.mean()
    around, squares = DealtPoints(rows, original.deal), rows.square().sum(1)
    chosen = torch.randint(len(original), (restarts,), generator=generator).to(rows.device)
    shares = torch.rand(clusters - 1, restarts, generator=generator, dtype=torch.float64).to(rows.device)
    picked = [chosen]
    distance = torch.full((restarts, len(rows)), torch.inf, dtype=rows.dtype, device=rows.device)
    for share in shares:
        newest = around[picked[-1]]
        to_newest = squares + newest.square().sum(1)[:, None] - 2 * newest @ rows.T
        distance = torch.minimum(distance, to_newest.clamp(min=0))
        units = 2.0**62 / len(original) / original.greatest(distance)[:, None].double().clamp(min=1e-38)
        picked.append(drawn((distance * units).round_().long(), share, original.deal))
    return original[torch.stack(picked, dim=1)]


def drawn(weights: Int[Tensor, "r m"], shares: Float[Tensor, "r"], deal: Deal) -> Int[Tensor, "r"]:
    """Return in every process the number of the thing that each share, from 0 to 1, of the cumulated weights falls on.

    weights: of the things that `deal` gives this process. Whoever has the run that a share falls on looks for the thing in it.
    """
    if deal.size == 1:
        cumulated = weights.cumsum(1)
        found = torch.searchsorted(cumulated, (shares * cumulated[:, -1]).long()[:, None], right=True)[:, 0]
        return found.clamp(max=deal.count - 1)
    mine = F.pad(weights, (0, deal.most - weights.shape[1])).unflatten(1, (-1, deal.run))
    runs = Deal(deal.most // deal.run * deal.size, 1, deal.size)
    cumulated = runs.joined(mine.sum(2)).cumsum(1)
    wanted = (shares * cumulated[:, -1]).long()[:, None]
    run = torch.searchsorted(cumulated, wanted, right=True).clamp(max=cumulated.shape[1] - 1)
    before = torch.where(run > 0, cumulated.gather(1, (run - 1).clamp(min=0)), 0)
    row = torch.arange(len(shares), device=weights.device)
    within = mine[row, run[:, 0] // deal.size].cumsum(1)
    found = run * deal.run + torch.searchsorted(within, wanted - before, right=True)
    return total(torch.where(run % deal.size == rank(), found, 0))[:, 0].clamp(max=deal.count - 1)
