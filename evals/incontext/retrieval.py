"""Retrieval: from a query's nearest neighbours in the memory to a label for every pixel. Pure functions of arrays."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor


def attend(
    cosine: Float[Tensor, "q k"], index: Int[Tensor, "q k"], labels: Float[Tensor, "m c"], temperature: float
) -> Float[Tensor, "q c"]:
    """Cross-attention from queries to their k neighbours (Balažević et al. 2023, eq. 2 over the retrieved keys).

    The weights are softmax(cosine / temperature) over the k; the result is the weighted sum of the neighbours' labels.
    """
    weights = (cosine / temperature).softmax(1)
    return F.embedding_bag(index, labels, mode="sum", per_sample_weights=weights)


def cosines(
    score: Float[Tensor, "q k"],
    query_norm: Float[Tensor, "q"],
    key_norm: Float[Tensor, "q k"],
    metric: str,
) -> Float[Tensor, "q k"]:
    """Cosines of queries with their neighbours from what the search returned, so that no key is gathered again.

    `score` is the inner product ("dot") or the negative squared distance ("l2": q.k = (|q|^2 + |k|^2 + score) / 2).
    """
    product = score if metric == "dot" else (query_norm[:, None].square() + key_norm.square() + score) / 2
    return product / (query_norm[:, None] * key_norm).clamp(min=1e-12)


def vote(index: Int[Tensor, "q k"], labels: Float[Tensor, "m c"]) -> Float[Tensor, "q c"]:
    """Every neighbour counts the same (a k-NN classifier): the mean of their labels."""
    return F.embedding_bag(index, labels, mode="mean")


def vote_pixels(index: Int[Tensor, "q k"], pixels: UInt8[Tensor, "m p"]) -> UInt8[Tensor, "q p"]:
    """Pixel by pixel, the most frequent label among the neighbours' patches; the lowest label wins a tie (CAPI)."""
    return pixels[index].mode(dim=1).values


def segment(scores: Float[Tensor, "gh gw c"], height: int, width: int) -> UInt8[Tensor, "height width"]:
    """The label map of an image: class scores upsampled bilinearly (pixel centres aligned), then the best class.

    The lowest class wins a tie. Classes that score zero everywhere cannot win and are left out of the work.
    """
    active = scores.flatten(0, 1).amax(0).nonzero()[:, 0]
    if len(active) == 0:
        return torch.zeros(height, width, dtype=torch.uint8, device=scores.device)
    grids = scores[..., active].movedim(-1, 0)[None]
    best = (
        F.interpolate(grids, (height, width), mode="bilinear", align_corners=False)[0].max(0).indices
    )  # many times faster than argmax
    return active[best].to(torch.uint8)


def unfold_pixels(patches: UInt8[Tensor, "n p"], gh: int, gw: int) -> UInt8[Tensor, "h w"]:
    """Put patches of pixels, row by row, back together as a label map: the inverse of `memory.patch_pixels`."""
    side = int(patches.shape[1] ** 0.5)
    return patches.view(gh, gw, side, side).transpose(1, 2).reshape(gh * side, gw * side)
