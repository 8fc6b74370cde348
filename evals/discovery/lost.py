"""LOST: the patches that are alike with few others belong to an object.

Simeoni et al., Localizing Objects with Self-Supervised Transformers and no Labels, BMVC 2021. The matrices of the paper are
binary; those of its code, which made the published numbers, hold dot products. Here as in the code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.evals.discovery.graphs import density


class Expanded(NamedTuple):
    """What LOST finds in pictures: the patches that count as alike with the seed, the seed, and the degree of each patch.

    density: the share of pairs of patches with a positive product.
    """

    mask: Bool[Tensor, "b n"]
    seed: Int[Tensor, "b"]
    degree: Int[Tensor, "b n"]
    density: Float[Tensor, "b"]


def lost(products: Float[Tensor, "b n n"], candidates: int = 100) -> Expanded:
    """Return the seed of each picture and the patches that are alike with it.

        degree(p)  = how many other patches q have a positive product a(p, q)
        seed       = the patch of the smallest degree
        alike      = those of the `candidates` patches of smallest degree whose product with the seed is positive
        mask       = the patches q with sum over p in alike of a(p, q) > 0

    Ties between degrees go to the lower index. The object is the connected part of the mask that holds the seed.
    """
    edges = products > 0
    edges.diagonal(dim1=1, dim2=2).fill_(False)
    degree = edges.sum(2)
    order = degree.argsort(dim=1, stable=True)[:, :candidates]
    seed = order[:, 0]
    of_seed = products.gather(1, seed[:, None, None].expand(-1, 1, products.shape[2]))[:, 0]
    alike = torch.zeros_like(of_seed, dtype=torch.bool).scatter(1, order, True) & (of_seed > 0)
    total = (alike[:, None].to(products.dtype) @ products)[:, 0]
    return Expanded(total > 0, seed, degree, density(edges))
