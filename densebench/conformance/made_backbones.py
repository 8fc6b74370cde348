"""Backbones whose score is known beforehand: an oracle that sees the classes of drawn images, and noise that sees nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneInfo
from densebench.backbones.weights import weights_digest
from densebench.conformance.drawn import COLOURS

STRIDE = 16
COPIES = 13  # of each feature of the oracle, so that it has more channels than the PCA of a protocol keeps
LARGEST = 100.0  # the oracle's largest value; heads that are trained for a few steps can use such large features


class _Pixels(nn.Module):
    """Base of backbones that look at pixels as they are, before they were normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None])

    def pixels(self, images: Tensor) -> Tensor:
        """Return the values 0..255 of normalised images, `[b 3 h w]`."""
        return 255 * (images * self.std + self.mean)


class Oracle(_Pixels):
    """The shares of a patch's pixels whose colour is nearest to that of each class, several times."""

    dim = COPIES * len(COLOURS)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("colours", torch.from_numpy(COLOURS).float())

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        distances = (self.pixels(images)[:, None] - self.colours[:, :, None, None]).square().sum(2)  # type: ignore[index]
        nearest = F.one_hot(distances.argmin(1), len(COLOURS)).movedim(-1, 1)
        return LARGEST * F.avg_pool2d(nearest.to(images.dtype), STRIDE).repeat(1, COPIES, 1, 1)


class Noise(_Pixels):
    """Numbers that look random: a checksum of a patch's pixels, so that equal patches get equal ones and others do not."""

    dim = 64

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        patches = F.unfold(self.pixels(images.double()).round(), STRIDE, stride=STRIDE).long()  # [b p n]
        places = torch.arange(1, patches.shape[1] + 1, device=images.device)
        sums = (patches * (places * 2654435761 % 1000003)[:, None]).sum(1)
        channels = torch.arange(1, self.dim + 1, device=images.device)[:, None]
        mixed = (sums[:, None] % 1000003 * (channels * 40503 + 12345)) % 1000003
        mixed = (mixed * mixed + channels * mixed) % 1000003
        grid = (images.shape[2] // STRIDE, images.shape[3] // STRIDE)
        return (2 * mixed.to(images.dtype) / 1000003 - 1).unflatten(2, grid)


def made(trunk: Oracle | Noise) -> Backbone:
    """Return a trunk as a backbone."""
    name = type(trunk).__name__.lower()
    return Backbone(trunk, BackboneInfo(name, name, trunk.dim, STRIDE), weights_digest(trunk))
