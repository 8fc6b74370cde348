"""Where masks on a GPU are true, listed without a wait for what was queued after them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from densebench.numerics.host_copy import HostCopy


class LateIndices:
    """The flat indices at which masks are true: counted when this is made, listed by `indices`.

    The host waits once for the counts of all masks, in `indices`, and only for them: make this early, queue other work that the
    indices do not decide, and call `indices` late.
    """

    def __init__(self, *masks: Bool[Tensor, "..."]) -> None:
        self._masks = [mask.flatten() for mask in masks]
        self._counts = HostCopy(torch.stack([mask.sum() for mask in self._masks]))

    def indices(self) -> list[Int[Tensor, " true"]]:
        """Return the indices of the true entries of each mask, in ascending order, on the masks' device."""
        return [listed(mask, count) for mask, count in zip(self._masks, self._counts.value().tolist(), strict=True)]


def listed(mask: Bool[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """Return the indices of the true entries of a mask, of which there are `count`, without a wait for the device."""
    index = torch.arange(len(mask), device=mask.device)
    slots = torch.where(mask, mask.cumsum(0) - 1, count)  # the last slot takes all entries that are not true
    return index.new_empty(count + 1).scatter_(0, slots, index)[:count]


def positions_among(mask: Bool[Tensor, "..."], indices: Int[Tensor, " chosen"]) -> Int[Tensor, " chosen"]:
    """Return which of the true entries of a mask, from 0, the true entries at these flat indices are."""
    return mask.flatten().cumsum(0)[indices] - 1
