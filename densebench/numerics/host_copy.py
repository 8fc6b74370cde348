"""Copies between host and GPU for which neither waits: above all a GPU's values, while it goes on with what was queued.

`tensor.tolist()`, `bool(tensor)`, `tensor.nonzero()` and a boolean mask as an index make the host wait until the GPU has done
everything that was queued, so the GPU has nothing to do afterwards until the host has queued more. `HostCopy` copies at the
moment at which it is made, and waits for that copy alone: whoever queues further work between the two loses no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Step = TypeVar("Step")


class HostCopy:
    """A copy of a tensor on the host: begun when this is made, complete once `value` returns it."""

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        self._value, self._copied = tensor, None
        if tensor.is_cuda:
            self._value = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._value.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(tensor.device))  # which copies; the current device may be another

    def value(self) -> Tensor:
        """Return the tensor on the CPU. The host waits for the copy, not for what was queued after it."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        return self._value


def queued(tensor: Tensor) -> bool:
    """Return whether operations on a tensor are queued: then the host queues on first, and reads its copies afterwards."""
    return tensor.is_cuda


def one_late(steps: Iterable[Step], device: torch.device) -> Iterator[Step]:
    """Yield steps in order; on a GPU each only after the next one was made.

    So whoever reads the copies that a step has begun leaves the GPU the next step's work while the host waits. On the CPU, where
    nothing waits, steps are yielded at once.
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
