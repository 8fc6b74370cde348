"""Page-locked memory of the host, and the copies into and out of it that are under way."""

from __future__ import annotations

import ctypes
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from simulated_cuda.report import line
from simulated_cuda.streams import Known, Moment, streams


class _Copy(NamedTuple):
    target: Tensor
    value: Tensor
    begun: Moment


class _Source(NamedTuple):
    """What a copy to the device reads, and where it was begun."""

    storage: StorageWeakRef
    address: int
    value: bytes
    begun: Moment
    where: str


class HostMemory:
    """Which memory is page-locked, and what is copied into it: a copy arrives once the host has waited for it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: no memory is page-locked and no copy is under way."""
        self._locked: dict[int, StorageWeakRef] = {}
        self._under_way: list[_Copy] = []
        self._sources: list[_Source] = []

    def lock(self, tensor: Tensor) -> Tensor:
        """Mark a tensor's memory as page-locked, and return the tensor."""
        storage = StorageWeakRef(tensor.untyped_storage())
        self._locked[storage.cdata] = storage
        return tensor

    def is_locked(self, tensor: Tensor) -> bool:
        """Return whether a tensor on the CPU lies in page-locked memory."""
        storage = self._locked.get(tensor.untyped_storage()._cdata)
        return storage is not None and not storage.expired()

    def without_wait(self, tensor: Tensor) -> bool:
        """Return whether a copy of a tensor can be queued: it is dense and lies in page-locked memory."""
        return self.is_locked(tensor) and torch.ops.aten.is_non_overlapping_and_dense(tensor)

    def begin(self, target: Tensor, value: Tensor) -> None:
        """Begin a copy into page-locked memory. Until it arrives, nonsense is read there."""
        self._under_way.append(_Copy(target, value.clone(), streams.next()))
        target.fill_(math.nan if target.is_floating_point() else 1)

    def send(self, source: Tensor) -> None:
        """Begin a copy out of page-locked memory, which must not be written to before it is done."""
        if source.numel():
            value = ctypes.string_at(source.data_ptr(), source.nbytes)
            storage = StorageWeakRef(source.untyped_storage())
            self._sources.append(_Source(storage, source.data_ptr(), value, streams.next(), line()))

    def arrive(self, known: Known | None = None) -> None:
        """Complete the copies that `known` says are done, by default all.

        Raises RuntimeError where the memory that a copy reads was written to meanwhile; memory that was freed is not checked.
        """
        done = [copy for copy in self._under_way if known is None or known.get(copy.begun[0], -1) >= copy.begun[1]]
        for copy in done:
            self._under_way = [other for other in self._under_way if other is not copy]
            with torch.inference_mode(copy.target.is_inference()):  # inference tensors can only be written to there
                copy.target.copy_(copy.value)
        read = [source for source in self._sources if known is None or known.get(source.begun[0], -1) >= source.begun[1]]
        self._sources = [source for source in self._sources if source not in read]
        for source in read:
            if not source.storage.expired() and ctypes.string_at(source.address, len(source.value)) != source.value:
                raise RuntimeError(f"page-locked memory was written to while it was copied to the device ({source.where})")


host = HostMemory()
