"""The clustering of CrIBo: the patches of two views are divided into a fixed number of objects by similarity and position.

Source: CrIBo (Lebailly et al., ICLR 2024), section 3.2.1, and its official code, whose positional cost is the distance to the
nearest other patch of a cluster (single linkage), not to its centre.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from densebench.numerics.distances import distances_between
from densebench.numerics.sinkhorn import rescaled, sinkhorn

MARGINAL_FLOOR = 0.01  # added to the number of patches of a cluster, so that an empty one can win patches again


def partition(
    tokens: Float[Tensor, "b joint d"],
    positions: Float[Tensor, "b joint 2"],
    noise: Float[Tensor, "b joint"],
    count: int,
    lambda_pos: float,
    *,
    rounds: int = 5,
    sharpness: float = 20.0,
    iterations: int = 5,
    group: int = 0,
    update_marginal: bool = True,
) -> Int[Tensor, "b joint"]:
    """Return the cluster 0 .. count - 1 of each patch on the joint axis, for b images at once.

    tokens: the teacher's patches, of view 1 then of view 2. positions: of the patches in the original image, px. noise: uniform;
    the patches with the `count` largest values are the first centroids. group: number of images over which the cost is rescaled
    together (0: all). Each round computes cost = -cosine + lambda_pos * linkage, rescaled to [0, 1], and from it an unconverged
    transport plan, assigns each patch to the cluster of its largest share, and updates centroids and the clusters' marginal.
    """
    b, joint, _ = tokens.shape
    tokens = F.normalize(tokens.float(), dim=2)
    distances = distances_between(positions, positions)
    distances = distances.masked_fill(distances == 0, torch.inf)
    start = noise.topk(count, dim=1).indices
    labels = start.new_full((b, joint), count).scatter(1, start, torch.arange(count, device=start.device).expand(b, -1))
    centroids = tokens.gather(1, start[:, :, None].expand(-1, -1, tokens.shape[2]))
    rows = tokens.new_full((b, joint), 1.0 / joint)
    columns = tokens.new_full((b, count), 1.0 / count)
    for _ in range(rounds):
        similarity = torch.bmm(tokens, F.normalize(centroids, dim=2).transpose(1, 2))
        cost = lambda_pos * linkage(distances, labels, count) - similarity if lambda_pos else -similarity
        plan = sinkhorn(rescaled(cost, group), rows, columns, sharpness, iterations)
        labels = plan.argmax(dim=2)
        hard = F.one_hot(labels, count).to(tokens.dtype)
        if update_marginal:
            columns = hard.sum(dim=1) + MARGINAL_FLOOR
            columns = columns / columns.sum(dim=1, keepdim=True)
        centroids = torch.bmm(hard.transpose(1, 2), tokens)
    return labels


def linkage(distances: Float[Tensor, "b n m"], labels: Int[Tensor, "b m"], count: int) -> Float[Tensor, "b n count"]:
    """Return the distance of each patch to the nearest other patch of each cluster, as a share of the image's largest.

    distances: infinite between a patch and itself, and between patches at the same position. labels: `count` for patches without
    a cluster. Where a cluster has no patch at a finite distance, the image's mean is taken, in which such entries count as 0.
    """
    nearest = distances.new_full((*distances.shape[:2], count + 1), torch.inf)
    nearest = nearest.scatter_reduce(2, labels[:, None, :].expand_as(distances), distances, "amin")[:, :, :count]
    measured = nearest.isfinite()
    nearest = torch.where(measured, nearest, 0.0)
    nearest = torch.where(measured, nearest, nearest.mean(dim=(1, 2), keepdim=True))
    return nearest / nearest.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
