"""TokenCut: the graph of patches is cut in two where the fewest edges are lost.

Wang et al., Self-Supervised Transformers for Unsupervised Object Discovery using Normalized Cut, CVPR 2022; the cut is that of
Shi and Malik, Normalized Cuts and Image Segmentation, PAMI 2000.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.evals.discovery.eigenvectors import second_eigenvectors
from densebench.evals.discovery.graphs import density

EPSILON = 1e-5  # the weight of pairs that are not alike
TIE = 1e-7  # entries of a vector whose greatest is 1 count as equal within this: an eigenvector is not exact


class Cut(NamedTuple):
    """Pictures cut in two: the half that holds the seed, the seed, and the vector that decides.

    vector: scaled so that the seed's entry is 1. eigengap: the third smallest eigenvalue less the second one; near 0 several cuts
    are equally good and the vector is arbitrary. density: the share of pairs of patches that are alike. residual: how far the
    vector is from solving its equation, see `Eigenvectors`.
    """

    mask: Bool[Tensor, "b n"]
    seed: Int[Tensor, "b"]
    vector: Float[Tensor, "b n"]
    eigengap: Float[Tensor, "b"]
    density: Float[Tensor, "b"]
    residual: Float[Tensor, "b"]


def tokencut(cosines: Float[Tensor, "b n n"], tau: float, binary: bool = True) -> Cut:
    """Return the normalised cut of each picture's graph, in float64.

        W = 1 where the cosine exceeds tau, else 1e-5; 1 on the diagonal
        (not binary, as with --no-binary-graph: the cosine itself where it is not below tau, else 1e-5)
        (D - W) v = lambda D v, D the sums of the rows of W; v the vector of the second smallest lambda
        seed = the patch of the greatest |v|
        mask = the patches whose v lies beyond the mean of v, on the side of the seed

    Ties go to the lower index. The sign of v does not matter. The object is the connected part of the mask that holds the seed.
    """
    edges = cosines > tau if binary else cosines >= tau
    edges.diagonal(dim1=1, dim2=2).fill_(True)
    found = second_eigenvectors(graph_weights(cosines, edges, binary))
    mask, seed, vector = halves(found.vector)
    return Cut(mask, seed, vector, found.values[:, 1] - found.values[:, 0], density(edges), found.residual)


def graph_weights(cosines: Float[Tensor, "b n n"], edges: Bool[Tensor, "b n n"], binary: bool) -> Float[Tensor, "b n n"]:
    """Return the weight of each pair of patches, float64: that of an edge, or EPSILON. cosines: symmetric."""
    if binary:
        return torch.full_like(cosines, EPSILON, dtype=torch.float64).masked_fill_(edges, 1.0)
    return torch.where(edges, cosines.double(), EPSILON)


def halves(vector: Float[Tensor, "b n"]) -> tuple[Bool[Tensor, "b n"], Int[Tensor, "b"], Float[Tensor, "b n"]]:
    """Return the half of each picture that holds the seed, the seed, and the vector scaled so that its entry there is 1.

    The seed is where the vector is farthest from 0, and the mean splits the vector. So the seed lies in the half beyond the mean
    once the vector is signed to be positive there, which is TokenCut's rule of taking the complement otherwise.
    """
    size = vector.abs()
    farthest = size.amax(1, keepdim=True)
    seed = (size >= farthest * (1 - TIE)).int().argmax(1)
    scaled = vector / vector.gather(1, seed[:, None])
    return scaled > scaled.mean(1, keepdim=True) + TIE, seed, scaled
