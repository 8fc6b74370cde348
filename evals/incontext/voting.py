"""A classifier of k nearest neighbours whose votes are weighted: where the true class comes in the vote."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

NOWHERE = torch.iinfo(torch.int64).max


def places(
    cosine: Float[Tensor, "q n"],
    classes: Int[Tensor, "q n"],
    truth: Int[Tensor, "q"],
    neighbours: Sequence[int],
    temperature: float,
    count: int,
) -> Int[Tensor, "ks q"]:
    """How many classes come before the true one when the k nearest neighbours vote, for each k of `neighbours`.

    cosine, classes: of the n neighbours of every query, nearest first; n is at least the largest k. A neighbour's vote weighs
    exp(cosine / temperature) (Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018),
    here over that of the nearest, which overflows at no temperature. Of equal classes the lower one comes first. A true class
    that no neighbour has is at place NOWHERE. count: the number of classes.
    """
    weights = ((cosine - cosine[:, :1]) / temperature).double().exp()
    votes = weights.new_zeros(len(cosine), count)
    found = {}
    last = 0
    for k in sorted(set(neighbours)):
        for rank in range(last, k):  # neighbour by neighbour: a GPU adds several of one class in any order
            votes.scatter_add_(1, classes[:, rank : rank + 1], weights[:, rank : rank + 1])
        own = votes.gather(1, truth[:, None])
        lower = torch.arange(count, device=votes.device) < truth[:, None]
        before = ((votes > own) | ((votes == own) & lower)).sum(1)
        voted = (classes[:, :k] == truth[:, None]).any(1)
        found[k] = torch.where(voted, before, NOWHERE)
        last = k
    return torch.stack([found[k] for k in neighbours])
