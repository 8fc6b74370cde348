"""A k-nearest-neighbour classifier with weighted votes: how many classes it ranks before the true one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

NO_VOTE = torch.iinfo(torch.int64).max


def classes_before(
    cosine: Float[Tensor, "q n"],
    classes: Int[Tensor, "q n"],
    truth: Int[Tensor, "q"],
    neighbours: Sequence[int],
    temperature: float,
    count: int,
) -> Int[Tensor, "ks q"]:
    """Return how many classes come before the true one when the k nearest neighbours vote, for each k of `neighbours`.

    cosine, classes: of the n neighbours of every query, nearest first; n is at least the largest k. A neighbour's vote weighs
    exp(cosine / temperature) (Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018),
    here divided by that of the nearest, so that no temperature overflows. Of classes with equal votes the lower one comes first.
    NO_VOTE where no neighbour has the true class. count: the number of classes.
    """
    weights = ((cosine - cosine[:, :1]) / temperature).double().exp()
    votes = weights.new_zeros(len(cosine), count)
    before = {}
    last = 0
    for k in sorted(set(neighbours)):
        for rank in range(last, k):  # neighbour by neighbour: a GPU adds several of one class in any order
            votes.scatter_add_(1, classes[:, rank : rank + 1], weights[:, rank : rank + 1])
        of_truth = votes.gather(1, truth[:, None])
        lower = torch.arange(count, device=votes.device) < truth[:, None]
        voted = (classes[:, :k] == truth[:, None]).any(1)
        before[k] = torch.where(voted, ((votes > of_truth) | ((votes == of_truth) & lower)).sum(1), NO_VOTE)
        last = k
    return torch.stack([before[k] for k in neighbours])
