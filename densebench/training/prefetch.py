"""Prefetching: the next micro-batch is copied to the GPU while the GPU computes a step.

Copies are queued on a CUDA stream of their own, out of page-locked memory, so they overlap with the kernels of a step: 256 images
of COCO are 315 MB, which take 6 to 13 ms over PCIe. Only the bytes of images are prefetched. Views are rendered on the main
stream, at the beginning of their step: rendering is bound by the bandwidth of the memory, as is the end of a step, so nothing
would be gained by overlapping them, and two sets of views would lie in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from densebench.training.augmentation import ViewSpec
from densebench.training.batches import Batch


class Prefetch:
    """Iterates over micro-batches on a GPU and holds at most one that was not requested yet.

    `fetch` takes the next batch and begins its copies. A loop calls it once the kernels of a step are queued, so that the host
    does its part while the GPU is busy; if it was not called, `next` does. In `next` the main stream, not the host, waits for the
    copies. The memory of a batch is not reused before the main stream has read it. Errors of `fetch` are raised by `next`.
    """

    def __init__(self, batches: Iterator[Batch], specs: Sequence[ViewSpec], device: torch.device) -> None:
        self._batches, self._specs, self._device = batches, tuple(specs), device
        self._stream = torch.cuda.Stream(device)
        self._copied = torch.cuda.Event()
        self._next: Batch | Exception | None = None

    def __iter__(self) -> Prefetch:
        return self

    def fetch(self) -> None:
        """Take the next batch and begin its copies, unless there is one already."""
        if self._next is not None:
            return
        try:
            batch = next(self._batches)
            with torch.cuda.stream(self._stream):
                self._next = batch.on(self._device, self._specs)
                self._copied.record()
        except Exception as error:  # raised where the loop needs the batch
            self._next = error

    def __next__(self) -> Batch:
        self.fetch()
        found = self._next
        if not isinstance(found, Batch):
            self.close()
            raise StopIteration if found is None else found
        self._next = None
        main = torch.cuda.current_stream(self._device)
        main.wait_event(self._copied)
        for tensor in _on_device(found):
            tensor.record_stream(main)
        return found

    def close(self) -> None:
        """Close the loader, and drop a batch that was fetched and not requested."""
        self._next = None
        close = getattr(self._batches, "close", None)
        if close:
            close()


def _on_device(batch: Batch) -> Iterator[Tensor]:
    """Yield a tensor of each block of device memory that was allocated for the batch."""
    yield from batch.pixels.buffers
    yield from (params.moved for params in batch.draws[:1] if params.moved is not None)  # one block, with the plans' arrays
