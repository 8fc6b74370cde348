"""One linear layer on features that are upsampled to the size of label maps, image by image, trained by AdamW.

An upsampler that is linear in the features and leaves constants as they are may follow the layer instead of coming before it:

    upsample(features) @ weights + bias  =  upsample(features @ weights + bias)

with as many channels as classes instead of as many as features. All training-free ones are such; learned ones are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.backbones.upsampled import Upsampled
from densebench.numerics.partial_sums import Adding, add_parts

IGNORED = 255


def cosine_factor(step: int, period: int) -> float:
    """Return by what a step's learning rate is multiplied, the first step being 0: 1, falling to 0 at `period`, and up again."""
    return (1 + math.cos(math.pi * step / period)) / 2


@dataclass(frozen=True)
class Upsampling:
    """How the logits of a pixel come from the features of the network. size: the side of label maps, px."""

    backbone: Backbone
    size: int

    @property
    def needs_pixels(self) -> bool:
        """Whether the images are needed besides their features."""
        return isinstance(self.backbone, Upsampled) and self.backbone.upsampler.needs_pixels

    def logits(
        self, features: Float[Tensor, "gh gw d"], pixels: Float[Tensor, "3 h w"] | None, weights: Float[Tensor, "d_plus_1 c"]
    ) -> Float[Tensor, "c size size"]:
        """Return the logits of an image. pixels: the image in 0..1, where it is needed. The last row of weights is the bias."""
        grid = features.float()
        if isinstance(self.backbone, Upsampled) and not self.backbone.upsampler.linear:
            assert pixels is not None
            with torch.no_grad():
                grid = self.backbone.finer(grid.movedim(-1, 0)[None], pixels[None])[0].movedim(0, -1)
        classes = (grid @ weights[:-1] + weights[-1]).movedim(-1, 0)[None]
        if isinstance(self.backbone, Upsampled) and self.backbone.upsampler.linear:
            classes = self.backbone.finer(classes, self._pixels(classes, pixels))
        return F.interpolate(classes, (self.size, self.size), mode="bilinear", align_corners=False)[0]

    def _pixels(self, classes: Tensor, pixels: Tensor | None) -> Float[Tensor, "1 3 h w"]:
        """Return the image; none of its pixels is read where the upsampler needs none."""
        side = self.backbone.multiple
        return classes.new_empty(1, 3, classes.shape[2] * side, classes.shape[3] * side) if pixels is None else pixels[None]


Example = tuple[Float[Tensor, "gh gw d"], Float[Tensor, "3 h w"] | None, UInt8[Tensor, "size size"]]
"""Features, the pixels where they are needed, and the label map of an image."""


class PixelLayer:
    """A 1 x 1 convolution on upsampled features, trained by AdamW on the cross-entropy of labelled pixels."""

    def __init__(
        self, upsampling: Upsampling, width: int, classes: int, *, rate: float, weight_decay: float, seed: int,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        """Draw the initial weights, uniform within 1 / sqrt(d) as those of nn.Conv2d."""
        bound = 1 / math.sqrt(width)
        drawn = torch.empty(width + 1, classes).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
        self.weights = drawn.to(device).requires_grad_()
        self.upsampling, self.rate = upsampling, rate
        self.optimiser = torch.optim.AdamW([self.weights], lr=rate, weight_decay=weight_decay)

    def step(self, examples: Sequence[Example], pixels: Tensor, factor: float, adding: Adding = add_parts) -> Float[Tensor, ""]:
        """Make a step at `factor` times the rate on the mean over the labelled pixels of a batch; return the loss before it.

        pixels: how many pixels of the whole batch carry a label. adding: adds the gradients and losses of images to the totals.
        """
        gradient, loss = torch.zeros_like(self.weights), torch.zeros((), device=self.weights.device)
        adding((gradient, loss), self._slopes(examples, pixels.clamp(min=1)))
        self.weights.grad = gradient
        self.optimiser.param_groups[0]["lr"] = self.rate * factor
        self.optimiser.step()
        return loss

    def _slopes(self, examples: Sequence[Example], pixels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for features, image, label in examples:
            logits = self.upsampling.logits(features, image, self.weights)
            losses = F.cross_entropy(logits[None], label[None].long(), ignore_index=IGNORED, reduction="sum")
            loss = losses / pixels
            yield torch.autograd.grad(loss, self.weights)[0], loss.detach()

    @torch.no_grad()
    def label_map(self, features: Float[Tensor, "gh gw d"], pixels: Float[Tensor, "3 h w"] | None) -> UInt8[Tensor, "size size"]:
        """Return the best class of each pixel of an image; ties go to the lowest."""
        return self.upsampling.logits(features, pixels, self.weights).argmax(dim=0).to(torch.uint8)

    def state(self) -> dict[str, Tensor]:
        """Return the weights and what AdamW remembers, from which training resumes."""
        state = {name: value for name, value in self.optimiser.state[self.weights].items() if isinstance(value, Tensor)}
        return {"weights": self.weights.detach().clone(), **{name: value.clone() for name, value in state.items()}}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state after at least one step."""
        self.weights.data.copy_(state["weights"])
        remembered = {name: value.clone() for name, value in state.items() if name != "weights"}
        device = self.weights.device
        self.optimiser.state[self.weights] = {
            name: value if name == "step" else value.to(device) for name, value in remembered.items()
        }
