"""Statistics of batch norms, taken when all weights are known.

While a pyramid is trained, running statistics follow single passes: a few images, in which each process meets others. In the end
they are taken anew, as means over the same passes in every process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from densebench.bridges.torchvision.data import SETTLING, settling_batches
from densebench.bridges.torchvision.recipe import Data, Recipe
from densebench.console import Progress
from densebench.distributed import World, agree, share
from densebench.errors import UserError
from densebench.features.extract import autocast


def settle(detector: Any, data: Data, recipe: Recipe, world: World, workers: int = 0) -> None:
    """Take the running statistics of all batch norms that are trained as means over passes of training samples.

    Every process sees the same samples, as they are augmented for training. Other layers are as in scoring: nothing is dropped.
    Raises UserError for an image that cannot be read.
    """
    norms = [one for one in detector.train().modules() if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training]
    if not norms:
        return
    detector.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # the mean over all passes
    problem = _see(detector, data, replace(recipe, masks=False), world, workers)
    if agree(problem is not None, world.device):
        raise problem or UserError("another process met an image that cannot be read; see its message")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        share([*norm.buffers()])
    detector.train()


@torch.no_grad()
def _see(detector: Any, data: Data, recipe: Recipe, world: World, workers: int) -> UserError | None:
    """Pass samples through the backbone and its pyramid; returns the first problem."""
    bar = Progress("batch norms", min(SETTLING, len(data.train)))
    for batch in settling_batches(data, recipe, workers, world.device.type == "cuda"):
        if isinstance(batch, UserError):
            return batch
        images, _ = detector.transform([image.to(world.device, non_blocking=True) for _, image, _ in batch])
        with autocast(world.device, recipe.precision):
            detector.backbone(images.tensors)
        bar.advance(len(batch))
    return None
