"""Page-locked memory of the host, and the copies into it that are under way."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class _Copy(NamedTuple):
    target: Tensor
    value: Tensor


class HostMemory:
    """Which memory is page-locked, and what is copied into it: a copy arrives once the host has waited for it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Take all memory for ordinary memory, and no copy for one under way."""
        self._locked: dict[int, StorageWeakRef] = {}
        self._under_way: list[_Copy] = []
        self._arrived = 0

    def lock(self, tensor: Tensor) -> Tensor:
        """Take a tensor's memory for page-locked, and return the tensor."""
        storage = StorageWeakRef(tensor.untyped_storage())
        self._locked[storage.cdata] = storage
        return tensor

    def is_locked(self, tensor: Tensor) -> bool:
        """Return whether a tensor on the CPU lies in page-locked memory."""
        storage = self._locked.get(tensor.untyped_storage()._cdata)
        return storage is not None and not storage.expired()

    def without_wait(self, tensor: Tensor) -> bool:
        """Return whether a tensor can be copied as it lies, in one piece of page-locked memory."""
        return self.is_locked(tensor) and torch.ops.aten.is_non_overlapping_and_dense(tensor)

    @property
    def begun(self) -> int:
        """How many copies to the host were begun."""
        return self._arrived + len(self._under_way)

    def begin(self, target: Tensor, value: Tensor) -> None:
        """Begin a copy into page-locked memory. Until it arrives, nonsense is read there."""
        self._under_way.append(_Copy(target, value.clone()))
        target.fill_(math.nan if target.is_floating_point() else 1)

    def arrive(self, count: int | None = None) -> None:
        """Let the first `count` copies that were ever begun arrive; by default all."""
        count = self.begun if count is None else count
        while self._arrived < count:
            copy = self._under_way.pop(0)
            with torch.inference_mode(copy.target.is_inference()):  # only there may what was made there be written
                copy.target.copy_(copy.value)
            self._arrived += 1


host = HostMemory()
