"""Indices of the true entries of masks on a GPU, without a wait for what was queued after the masks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from densebench.numerics.host_copy import HostCopy


class LateIndices:
    """The flat indices at which masks are true: counted when this is made, returned by `indices`.

    In `indices` the host waits once, for the counts of all masks alone. So make this early, queue work that needs no indices, and
    call `indices` after it.
    """

    def __init__(self, *masks: Bool[Tensor, "..."]) -> None:
        self._masks = [mask.flatten() for mask in masks]
        self._counts = HostCopy(torch.stack([mask.sum() for mask in self._masks]))

    def indices(self) -> list[Int[Tensor, " true"]]:
        """Return the indices of the true entries of each mask, in ascending order, on the masks' device."""
        return [true_indices(mask, count) for mask, count in zip(self._masks, self._counts.value().tolist(), strict=True)]


def true_indices(mask: Bool[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """Return the indices of the true entries of a mask, of which there are `count`, without a wait for the device."""
    index = torch.arange(len(mask), device=mask.device)
    slots = torch.where(mask, mask.cumsum(0) - 1, count)  # entries that are not true go to the last slot
    return index.new_empty(count + 1).scatter_(0, slots, index)[:count]


def positions_among(mask: Bool[Tensor, "..."], indices: Int[Tensor, " chosen"]) -> Int[Tensor, " chosen"]:
    """Return the rank, from 0, of the true entries at these flat indices among all true entries of a mask."""
    return mask.flatten().cumsum(0)[indices] - 1
