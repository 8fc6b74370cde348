"""Values of a GPU on the host, which are read while the GPU computes what was queued after them.

`tensor.tolist()`, `bool(tensor)`, `tensor.nonzero()` and a boolean mask as an index make the host wait until the GPU has done
everything that was queued, so the GPU then idles until the host has queued more. A `HostCopy` queues its copy when it is made,
and its `value` waits for that copy alone. A caller that queues further work between the two keeps the GPU busy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Step = TypeVar("Step")


class HostCopy:
    """A copy of a tensor in page-locked memory of the host, queued when this is made. A tensor of the CPU is not copied."""

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        self._value, self._copied = tensor, None
        if tensor.is_cuda:
            self._value = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._value.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(
                torch.cuda.current_stream(tensor.device)
            )  # the copy's stream: the current device may be another one

    def value(self) -> Tensor:
        """Return the tensor on the CPU. The host waits for this copy, not for what was queued after it."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        return self._value


def is_asynchronous(tensor: Tensor) -> bool:
    """Return whether operations on a tensor are queued on a GPU: then queue the next work before a copy is read."""
    return tensor.is_cuda


def one_late(steps: Iterable[Step], device: torch.device) -> Iterator[Step]:
    """Yield steps in order; on a GPU each one only after the next was taken from `steps`, which queues its work.

    A caller can then read the copies (`HostCopy`) of a step while the GPU computes the next. On the CPU steps are yielded at
    once.
    """
    if device.type != "cuda":
        yield from steps
        return
    waiting: list[Step] = []
    for step in steps:
        waiting.append(step)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting
