"""The graph of a picture's patches: which pairs are alike, and how many."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

LEAST_NORM = 1e-12  # features shorter than this count as 0: their cosine with anything is 0


def centred(features: Float[Tensor, "b n d"], how: str) -> Float[Tensor, "b n d"]:
    """Return the features of pictures without what all their patches have in common.

    how: "none" changes nothing; "mean" subtracts the mean patch of each picture; "map" subtracts the mean of all values of the
    picture and divides by their deviation, a LayerNorm over the whole map, as LOST does with the maps of convolutional networks.
    """
    if how == "mean":
        return features - features.mean(1, keepdim=True)
    return F.layer_norm(features, features.shape[1:]) if how == "map" else features


def products(features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n"]:
    """Return the dot product of every two patches of a picture, symmetric to the last bit.

    A matrix product need not be, and what is compared with a threshold would make an edge in one direction alone.
    """
    pairs = features @ features.mT
    return (pairs + pairs.mT) / 2


def cosines(features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n"]:
    """Return the cosine of every two patches of a picture."""
    return products(F.normalize(features, dim=2, eps=LEAST_NORM))


def density(edges: Bool[Tensor, "b n n"]) -> Float[Tensor, "b"]:
    """Return the share (0..1) of pairs of two different patches that an edge joins; 0 for a picture of one patch."""
    patches = edges.shape[1]
    joined = edges.sum((1, 2)) - edges.diagonal(dim1=1, dim2=2).sum(1)
    return joined.double() / max(1, patches * (patches - 1))
