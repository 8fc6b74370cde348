"""Matches of a batch's objects across images: their weights in the loss, and what is compared.

Source: CrIBo (Lebailly et al., ICLR 2024), section 3.2.2, equations 3, 4 and 8, and its official code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.numerics.late_indices import positions_among
from densebench.pretrain.cribo.bank import Bank
from densebench.training.objective import objects_per_group, shares


@dataclass(frozen=True)
class Matches:
    """The matches of the objects of both views.

    indices: of each object's neighbour in the bank of its view. used: which of them are used. weights: of these in the loss; 0
    for all others, and with the official norm also in a group of images whose objects have no match in the first view.
    """

    indices: Int[Tensor, "2 b k"]
    used: Bool[Tensor, "2 b k"]
    weights: Float[Tensor, "2 b k"]


def match_weights(used: Bool[Tensor, "2 b k"], norm: str, group: int) -> Float[Tensor, "2 b k"]:
    """Return the weights of matches: half of the mean over a group's matches in each direction, averaged over groups.

    norm: "official" divides both directions by the number of matches of the first, "paper" each by its own. group: number of
    images (0: all).
    """
    if norm == "official":
        counts, groups = objects_per_group(used[0], group)
        first = ((counts > 0) / counts.clamp(min=1) / groups)[:, None]
        return torch.stack([first * used[0], first * used[1]]) / 2
    return torch.stack([shares(used[0], group), shares(used[1], group)]) / 2


def neighbours(bank: Bank, indices: Int[Tensor, "2 b k"], chosen: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Return the neighbours of chosen objects. chosen: flat indices of the objects of view 1, then of view 2."""
    near = indices.flatten()[chosen]
    first_view = chosen < indices[0].numel()
    return torch.where(first_view[:, None], bank.at(0, near), bank.at(1, near))


def in_other_view(valid: Bool[Tensor, "b k"], rows: int, chosen: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return where chosen objects are found in the other view, among `rows` valid objects of view 1, followed by those of view 2.

    chosen: flat indices of valid objects of view 1, then of view 2, with room for `b * k` in each.
    """
    size = valid.numel()
    return positions_among(valid, chosen % size) + torch.where(chosen < size, rows, 0)
