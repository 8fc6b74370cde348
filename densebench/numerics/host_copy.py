"""Values of a GPU's tensor on the host, and of the host's tensors on a GPU, while the GPU goes on with what was queued.

`tensor.tolist()`, `bool(tensor)`, `tensor.nonzero()` and a boolean mask as an index make the host wait until the GPU has done
everything that was queued, so the GPU has nothing to do afterwards until the host has queued more. `HostCopy` copies at the
moment at which it is made, and waits for that copy alone: whoever queues further work between the two loses no time.
`LateIndices` does the same for masks, whose number of true entries decides the shapes of what follows.

`tensor.to(device)` makes the host wait, too, where the tensor is not in page-locked memory; `to_device` does not.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class HostCopy:
    """A copy of a tensor on the host: begun when this is made, complete once `value` returns it."""

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        self._value, self._copied = tensor, None
        if tensor.is_cuda:
            self._value = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._value.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def value(self) -> Tensor:
        """Return the tensor on the CPU. The host waits for the copy, not for what was queued after it."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._value


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; on a GPU by way of page-locked memory, so that the host does not wait."""
    if device.type == "cuda":
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)


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
