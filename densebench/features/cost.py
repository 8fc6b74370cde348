"""What a forward pass of a backbone costs: operations and memory, counted, and images a second, timed on this device.

Counts are the same on every machine; speed depends on the device.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from densebench.backbones.backbone import Backbone
from densebench.features.extract import autocast

PASSES = 40
BUDGET = 1.5  # seconds that the passes may take together
LEAST = 5
"""Passes that are made however long they take: on a busy machine, of two passes both may be several times too slow."""
MIB = 2**20


class Counted(NamedTuple):
    """Floating-point operations of a pass (a multiplication and an addition are two), and bytes of memory.

    flop: 0 where torch can count none. memory: the weights, the images, and the most that tensors made in the pass take at one
    time; what a kernel uses inside is not counted.
    """

    flop: int
    memory: int


@dataclass(frozen=True)
class Cost:
    """What a backbone costs on images of `size` px, one at a time.

    images_per_second: of its features alone, by the fastest of several passes. gflop, memory_mb (MiB): what `counted` counts.
    """

    size: int
    dim: int
    stride: int
    params: int
    images_per_second: float
    gflop: float
    memory_mb: float


def cost_of(backbone: Backbone, size: int, device: torch.device) -> Cost:
    """Count and time forward passes of one image of `size` x `size` px; the backbone is moved to the device.

    What else runs on the machine can only slow a pass down, so the fastest counts, after one that warms up.
    """
    backbone.to(device)
    image = torch.zeros(1, 3, size, size, device=device)
    flop, memory = counted(backbone, image)
    seconds: list[float] = []
    with torch.inference_mode(), autocast(device, "fp32"):
        while len(seconds) < LEAST or (len(seconds) < PASSES and sum(seconds) < BUDGET):
            began = time_on(device)
            backbone(image)
            seconds.append(time_on(device) - began)
    speed = 1 / max(min(seconds[1:]), 1e-9)
    return Cost(size, backbone.dim, backbone.stride, backbone.params, speed, flop / 1e9, memory / MIB)


def counted(backbone: Backbone, images: Float[Tensor, "b 3 h w"]) -> Counted:
    """Return the operations and the memory of a forward pass of normalised images, which are on the backbone's device.

    What a wrapped backbone computes once for a size of images is not counted.
    """
    with torch.inference_mode(), autocast(images.device, "fp32"):
        if backbone.network is not backbone.trunk:
            backbone(images)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # others are not counted on every device
            backbone(images)
        with _Live() as live:
            backbone(images).movedim(1, -1).float().contiguous()  # as features are kept
    weights = sum(each.nbytes for each in itertools.chain(backbone.parameters(), backbone.buffers()))
    return Counted(int(counter.get_total_flops()), weights + images.nbytes + live.most)


class _Live(TorchDispatchMode):
    """Adds up the bytes of the tensors that operations make, as long as they live. most: the greatest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], arguments: tuple[Any, ...] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        for given in tree_leaves((arguments, options)):
            if isinstance(given, Tensor):
                self._known.setdefault(given.untyped_storage(), 0)
        result = operation(*arguments, **(options or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and (storage := made.untyped_storage()) not in self._known:
                size = self._known[storage] = storage.nbytes()
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._freed, size)
        return result

    def _freed(self, size: int) -> None:
        self.now -= size


def time_on(device: torch.device) -> float:
    """Return the time in seconds at which a device has ended its work: on a GPU the host waits for it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
