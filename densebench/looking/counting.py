"""What one pass of a backbone costs, counted rather than measured, so that it is the same on every machine."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from densebench.backbones.backbone import Backbone
from densebench.looking.passes import features, normalised, shape, view


class Counted(NamedTuple):
    """Floating-point operations of a pass (a multiplication and an addition are two), and bytes of memory.

    memory: the weights, and the most that tensors made in the pass take at one time; what a kernel uses inside is not counted.
    """

    flop: int
    memory: int


def counted(backbone: Backbone, image: Image.Image, side: int, device: torch.device) -> Counted:
    """Return what a pass of a picture costs; `side` as in `shape`."""
    inputs = normalised(backbone, view(image, shape(*image.size, backbone.stride, side)), device)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # no other one is counted on every device
        features(backbone, inputs)
    with _Live() as live:
        features(backbone, inputs)
    weights = sum(each.nbytes for each in itertools.chain(backbone.parameters(), backbone.buffers()))
    return Counted(int(counter.get_total_flops()), weights + inputs.nbytes + live.most)


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
