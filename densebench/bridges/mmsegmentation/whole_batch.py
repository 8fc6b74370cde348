"""Modules that treat the batches of several processes as the one batch of a single process: random draws and batch norm.

Each process has an equal share of every batch, in the order of ranks. Dropout and stochastic depth draw for the whole batch from
the same random state, and take the draws of the process's own images. Batch norm takes statistics of all images.
"""

from __future__ import annotations

import torch.distributed.nn.functional as exchanging
from jaxtyping import Float
from mmcv.cnn.bricks.drop import DropPath as MmcvDropPath
from timm.layers import DropPath
from torch import Tensor, nn

from densebench.processes import rank, world_size

PER_IMAGE = (DropPath, MmcvDropPath)
PER_CHANNEL = (nn.Dropout2d,)
PER_VALUE = (nn.Dropout,)


class WholeBatch(nn.Module):
    """Dropout or stochastic depth that draws as in a single process which has the images of all processes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """Return the values of this process's images, dropped as in the whole batch."""
        if not self.inner.training or world_size() == 1:
            return self.inner(values)
        apart = {**dict.fromkeys(PER_IMAGE, 1), **dict.fromkeys(PER_CHANNEL, 2)}
        own = next((axes for kind, axes in apart.items() if isinstance(self.inner, kind)), values.dim())
        tail = [size if axis < own else 1 for axis, size in enumerate(values.shape)][1:]
        factors = self.inner(values.new_ones(len(values) * world_size(), *tail))
        return values * factors[rank() * len(values) : (rank() + 1) * len(values)]


class AllBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on any device; torch's own `SyncBatchNorm` takes a GPU."""

    def forward(self, values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the normalised values; in training update the running statistics as a single process does."""
        if not self.training or world_size() == 1:
            return super().forward(values)
        count = values.numel() // values.shape[1] * world_size()
        mean = exchanging.all_reduce(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = exchanging.all_reduce(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.momentum is not None and self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
        normal = centred * (variance + self.eps).rsqrt()[:, None, None]
        return normal if self.weight is None else normal * self.weight[:, None, None] + self.bias[:, None, None]


def draw_for_whole_batch(module: nn.Module) -> nn.Module:
    """Let all dropout and stochastic depth inside a module draw for the whole batch, in place; return the module."""
    for name, child in module.named_children():
        if isinstance(child, (*PER_IMAGE, *PER_CHANNEL, *PER_VALUE)):
            if getattr(child, "p", 1.0):  # a dropout of nothing draws nothing
                setattr(module, name, WholeBatch(child))
        elif not isinstance(child, WholeBatch):
            draw_for_whole_batch(child)
    return module


def normalise_whole_batch(module: nn.Module) -> nn.Module:
    """Let all batch norm inside a module take the statistics of all processes' images, in place; return the module."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = AllBatchNorm
    return module
