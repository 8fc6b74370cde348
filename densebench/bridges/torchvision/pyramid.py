"""Pyramids: grids of one stride become maps of one width at about 4, 8, 16, 32 and 64 px.

- fpn: Lin et al., Feature Pyramid Networks, CVPR 2017, on four layers of a ViT that are first brought to four strides, as XCiT,
  SelfPatch and FLSL do (deconvolutions of 2 x 2, batch norm and GELU between two, max pooling), or on the stages of a network
  that has them.
- simple: Li et al., ViTDet, ECCV 2022: the last grid alone, brought to four strides by deconvolutions that halve the channels,
  each followed by a 1 x 1 and a 3 x 3 convolution with layer norm.

The sixth level is the fifth at every other place. Patches of 14 px give strides of 3.5, 7, 14, 28 and 56 px.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from densebench.bridges.torchvision.layers import STRIDES, Layers

NAMES = ("0", "1", "2", "3", "pool")


class Pyramid(nn.Module):
    """A trained backbone with a pyramid on it, as torchvision's detectors take it.

    strides: px of each level's cells; exact, whatever the patch. `divisor`: what the sides of images must be multiples of.
    """

    def __init__(self, layers: Layers, simple: bool, width: int) -> None:
        super().__init__()
        self.layers = layers
        scales = [octaves(stride, level) for stride, level in zip(layers.strides * (4 if simple else 1), STRIDES, strict=True)]
        widths = layers.widths * (4 if simple else 1)
        strides = [stride / 2**scale for stride, scale in zip(layers.strides * (4 if simple else 1), scales, strict=True)]
        self.strides = (*strides, 2 * strides[-1])
        self.divisor = max(math.ceil(strides[-1]), *layers.strides)
        self.simple, self.out_channels = simple, width
        if simple:
            self.levels = nn.ModuleList(_simple_level(own, scale, width) for own, scale in zip(widths, scales, strict=True))
            self.top = LastLevelMaxPool()
        else:
            self.levels = nn.ModuleList(_rescaled(own, scale) for own, scale in zip(widths, scales, strict=True))
            self.top = FeaturePyramidNetwork(list(widths), width, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> OrderedDict[str, Tensor]:
        """Maps of normalised images, finest first; `divisor` must divide the sides."""
        grids = self.layers(images)
        maps = [level(grid) for level, grid in zip(self.levels, grids * (4 if self.simple else 1), strict=True)]
        if self.simple:
            return OrderedDict(zip(NAMES, self.top(maps, maps, [*NAMES[:4]])[0], strict=True))
        return self.top(OrderedDict(zip(NAMES, maps, strict=False)))


def octaves(stride: float, level: float) -> int:
    """How often a grid of `stride` px is doubled to come nearest to `level` px; less than 0: halved."""
    return round(math.log2(stride / level))


def _rescaled(width: int, scale: int) -> nn.Module:
    """A grid `scale` times doubled or halved, of the same width."""
    if scale <= 0:
        return nn.MaxPool2d(2**-scale) if scale else nn.Identity()
    parts: list[nn.Module] = [nn.ConvTranspose2d(width, width, 2, stride=2)]
    for _ in range(scale - 1):
        parts += [nn.BatchNorm2d(width), nn.GELU(), nn.ConvTranspose2d(width, width, 2, stride=2)]
    return nn.Sequential(*parts)


def _simple_level(width: int, scale: int, out: int) -> nn.Module:
    """A level of the simple pyramid, `out` wide; each deconvolution halves the width."""
    parts: list[nn.Module] = []
    for number in range(scale):
        parts += [LayerNorm2d(width), nn.GELU()] if number else []
        parts.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    parts += [nn.MaxPool2d(2**-scale)] if scale < 0 else []
    for kernel in (1, 3):
        parts += [nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False), LayerNorm2d(out)]
        width = out
    return nn.Sequential(*parts)
