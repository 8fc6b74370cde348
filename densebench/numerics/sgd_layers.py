"""Linear heads trained by stochastic gradients on frozen features, many at once.

The literature trains a 1 x 1 convolution on bilinearly upsampled patch features (Ziegler and Asano, Leopart, CVPR 2022). Bilinear
weights sum to one, so upsampling the logits instead gives the same values and gradients, with as many channels as classes
instead of as many as features. Heads that share a batch differ in learning rate alone: one product serves them all, and none
touches another's parameters, so one that diverges leaves the others as they are.

Several processes divide the images of a step: each passes `step` its own, how many pixels all images have, and an `adding` that
adds the gradients of all parts in every process. Images are computed a few at a time (`Heads.parts`); a process that takes whole
parts changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from densebench.numerics.partial_sums import Adding, add_parts

CHUNK = 2**22  # logits computed at once: few enough for the caches of a processor


def upsampled(
    features: Float[Tensor, "p b h w d"], weights: Float[Tensor, "p l d_plus_1 c"], size: tuple[int, int]
) -> Float[Tensor, "p l b c rows columns"]:
    """Return the logits of linear layers (the last row of each is its bias) on grids of features, upsampled bilinearly to `size`:

        upsampled(features) @ weights + bias  =  upsampled(features @ weights + bias),    as bilinear weights sum to one

    There are p problems with a batch of grids each, and l layers on each problem.
    """
    p, b, h, w, _ = features.shape
    layers, c = weights.shape[1], weights.shape[3]
    side_by_side = weights.transpose(1, 2).flatten(2)  # one product for all layers of a problem
    logits = torch.baddbmm(side_by_side[:, -1:], features.flatten(1, 3).to(weights.dtype), side_by_side[:, :-1])
    grids = logits.view(p, b, h, w, layers, c).permute(0, 4, 1, 5, 2, 3).flatten(0, 2)
    return F.interpolate(grids, size, mode="bilinear", align_corners=False).view(p, layers, b, c, *size)


def cross_entropy(
    logits: Float[Tensor, "p l b c h w"], labels: UInt8[Tensor, "p b h w"], pixels: Float[Tensor, "p"], ignore_index: int = 255
) -> Float[Tensor, "p l"]:
    """Return the cross-entropy in nats of each layer, summed over labelled pixels and divided by `pixels`."""
    p, layers = logits.shape[:2]
    truth = labels.long()[:, None].expand(p, layers, *labels.shape[1:])
    each = F.cross_entropy(logits.flatten(0, 2), truth.flatten(0, 2), ignore_index=ignore_index, reduction="none")
    return each.view(p, layers, -1).sum(-1) / pixels[:, None]


def labelled_pixels(labels: UInt8[Tensor, "p b h w"]) -> Int[Tensor, "p"]:
    """Return how many pixels of each problem carry a label."""
    return (labels != 255).flatten(1).sum(1)


class Heads:
    """p x l linear layers: l learning rates on each of p problems, whose batches differ.

    SGD as torch.optim.SGD does it, with momentum and weight decay (on the bias too). Layers of one problem begin alike, as those
    of `torch.nn.Conv2d` do: uniform within 1 / sqrt(d).
    """

    def __init__(
        self,
        width: int,
        classes: int,
        rates: Sequence[float],
        seeds: Sequence[int],
        *,
        momentum: float,
        weight_decay: float,
        device: torch.device | str = "cpu",
    ) -> None:
        """Draw the initial weights. rates: the l learning rates; seeds: one for each of the p problems."""
        first = torch.stack([_initial(width, classes, seed) for seed in seeds])
        self._layers = [first.clone().to(device).requires_grad_() for _ in rates]
        groups = [{"params": [layer], "lr": rate} for layer, rate in zip(self._layers, rates, strict=True)]
        self.rates = tuple(rates)
        self.optimiser = torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)

    @property
    def weights(self) -> Float[Tensor, "p l d_plus_1 c"]:
        """The layers as they are; the last row of each is its bias."""
        return torch.stack([layer.detach() for layer in self._layers], dim=1)

    def parts(self, images: int, size: tuple[int, int]) -> list[slice]:
        """Return which of the images of a step, with label maps of `size`, are computed together, part after part."""
        problems, _, classes = self._layers[0].shape
        at_once = max(1, CHUNK // (problems * len(self._layers) * classes * size[0] * size[1]))
        return [slice(start, min(start + at_once, images)) for start in range(0, images, at_once)]

    def step(
        self,
        features: Float[Tensor, "p b h w d"],
        labels: UInt8[Tensor, "p b rows columns"],
        factor: float = 1.0,
        *,
        pixels: Int[Tensor, "p"] | None = None,
        adding: Adding = add_parts,
    ) -> Float[Tensor, "p l"]:
        """Make one step at `factor` times the rates, on the mean over a batch's labelled pixels; return the losses before it.

        pixels: labelled pixels of the whole batch, where the images are only some of it. adding: adds the gradients and losses
        of parts to the totals.
        """
        pixels = labelled_pixels(labels) if pixels is None else pixels
        layers = torch.stack([layer.detach() for layer in self._layers], dim=1).requires_grad_()
        gradient, losses = torch.zeros_like(layers), torch.zeros(layers.shape[:2], device=features.device)
        adding((gradient, losses), self._slopes(layers, features, labels, pixels.clamp(min=1).float()))
        for layer, of_layer in zip(self._layers, gradient.unbind(1), strict=True):
            layer.grad = of_layer.contiguous()
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimiser.step()
        return losses

    def _slopes(self, layers: Tensor, features: Tensor, labels: Tensor, pixels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the gradient of the layers and the losses of each part of the images."""
        size = (labels.shape[-2], labels.shape[-1])
        for part in self.parts(features.shape[1], size):
            loss = cross_entropy(upsampled(features[:, part], layers, size), labels[:, part], pixels)
            yield torch.autograd.grad(loss.sum(), layers)[0], loss.detach()

    def state(self) -> dict[str, Tensor]:
        """Return the weights and momentum, from which training resumes."""
        state = {f"layer {i}": layer.detach().clone() for i, layer in enumerate(self._layers)}
        for i, layer in enumerate(self._layers):
            buffer = self.optimiser.state[layer].get("momentum_buffer")
            if buffer is not None:
                state[f"momentum {i}"] = buffer.clone()
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state; one from before the first step has no momentum."""
        self.optimiser.state.clear()
        for i, layer in enumerate(self._layers):
            layer.data.copy_(state[f"layer {i}"])
            if f"momentum {i}" in state:
                self.optimiser.state[layer]["momentum_buffer"] = state[f"momentum {i}"].to(layer.device, copy=True)


def _initial(width: int, classes: int, seed: int) -> Float[Tensor, "d_plus_1 c"]:
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(width)
    return torch.empty(width + 1, classes).uniform_(-bound, bound, generator=generator)
