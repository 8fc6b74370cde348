"""Votes: how the labels of nearest neighbours become scores of classes, and scores a label map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

AT_ONCE = 2**27  # scores or votes of pixels held at once on a GPU: bounds its memory and changes no result
LABELS = 256  # labels that a pixel can have


def attend(
    cosine: Float[Tensor, "q k"], index: Int[Tensor, "q k"], labels: Float[Tensor, "m c"], temperature: float
) -> Float[Tensor, "q c"]:
    """Return the cross-attention of queries to their k neighbours (Balažević et al. 2023, eq. 2 over the retrieved keys):

    sum over the k neighbours j of  softmax_j(cosine_j / temperature) labels_j
    """
    weights = (cosine / temperature).softmax(1)
    return F.embedding_bag(index, labels, mode="sum", per_sample_weights=weights)


def cosines(
    score: Float[Tensor, "q k"],
    query_norm: Float[Tensor, "q"],
    key_norm: Float[Tensor, "q k"],
    metric: str,
) -> Float[Tensor, "q k"]:
    """Return the cosines of queries with their neighbours, computed from the scores of the search without gathering the keys.

    score: the inner product ("dot") or the negative squared distance ("l2": q.k = (|q|^2 + |k|^2 + score) / 2).
    query_norm, key_norm: the lengths of queries and of their neighbours.
    """
    product = score if metric == "dot" else (query_norm[:, None].square() + key_norm.square() + score) / 2
    return product / (query_norm[:, None] * key_norm).clamp(min=1e-12)


def vote(index: Int[Tensor, "q k"], labels: Float[Tensor, "m c"]) -> Float[Tensor, "q c"]:
    """Return the mean of the neighbours' labels: every neighbour counts the same (a k-NN classifier)."""
    return F.embedding_bag(index, labels, mode="mean")


def vote_pixels(index: Int[Tensor, "q k"], pixels: UInt8[Tensor, "m p"]) -> UInt8[Tensor, "q p"]:
    """Return, pixel by pixel, the most frequent label among the neighbours' patches; the lowest label wins a tie (CAPI)."""
    return counted_votes(index, pixels) if index.is_cuda else pixels[index].mode(dim=1).values


def counted_votes(index: Int[Tensor, "q k"], pixels: UInt8[Tensor, "m p"]) -> UInt8[Tensor, "q p"]:
    """Return the same as `vote_pixels`, by counting every label: on a GPU `mode` breaks ties in another way than on a CPU."""
    winners = []
    for some in index.split(max(1, AT_ONCE // (pixels.shape[1] * max(LABELS, index.shape[1])))):
        labels = pixels[some].long()
        votes = torch.zeros(len(some), LABELS, pixels.shape[1], dtype=torch.int32, device=index.device)
        votes.scatter_add_(1, labels, votes.new_ones(()).expand_as(labels))
        winners.append(votes.max(1).indices.to(torch.uint8))  # the first of equals
    return torch.cat(winners)


def segment(scores: Float[Tensor, "gh gw c"], height: int, width: int) -> UInt8[Tensor, "height width"]:
    """Return the label map of an image: class scores upsampled bilinearly (pixel centres aligned), then the best class.

    The lowest class wins a tie. Classes that score zero everywhere cannot win and are left out of the work.
    """
    active = scores.flatten(0, 1).amax(0).nonzero()[:, 0]
    if len(active) == 0:
        return torch.zeros(height, width, dtype=torch.uint8, device=scores.device)
    grids = scores[..., active].movedim(-1, 0)[None]
    large = F.interpolate(grids, (height, width), mode="bilinear", align_corners=False)[0]
    return active[large.max(0).indices].to(torch.uint8)  # max is many times faster than argmax


def segments(scores: Float[Tensor, "n gh gw c"], height: int, width: int) -> UInt8[Tensor, "n height width"]:
    """Return the label maps of n images or subsets, as `segment` does."""
    if scores.is_cuda:
        return segmented_together(scores, height, width)
    return torch.stack([segment(grid, height, width) for grid in scores])


def segmented_together(scores: Float[Tensor, "n gh gw c"], height: int, width: int) -> UInt8[Tensor, "n height width"]:
    """Return the same as `segments` without a wait for the device: classes that score zero everywhere are set to -1, and lose."""
    grids = scores.masked_fill(scores.amax((1, 2), keepdim=True) == 0, -1.0).movedim(-1, 1)
    together = max(1, AT_ONCE // (scores.shape[-1] * height * width))
    large = (F.interpolate(some, (height, width), mode="bilinear", align_corners=False) for some in grids.split(together))
    return torch.cat([some.max(1).indices.to(torch.uint8) for some in large])


def unfold_pixels(patches: Shaped[Tensor, "*n patches p"], gh: int, gw: int) -> Shaped[Tensor, "*n h w"]:
    """Return the label map of a gh x gw grid of patches, each a row of its pixels: the inverse of `patch_pixels`."""
    side = int(patches.shape[-1] ** 0.5)
    return patches.unflatten(-1, (side, side)).unflatten(-3, (gh, gw)).transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)
