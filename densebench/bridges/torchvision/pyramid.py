"""A backbone's copy that is trained, and the pyramid of maps that detectors take, at about 4, 8, 16, 32 and 64 px.

- fpn: Lin et al., Feature Pyramid Networks, CVPR 2017, on four layers of a ViT that are first brought to four strides, as XCiT,
  SelfPatch and FLSL do (deconvolutions of 2 x 2, batch norm and GELU between two, max pooling), or on the stages of a network
  that has them.
- simple: Li et al., ViTDet, ECCV 2022: the last grid alone, brought to four strides by deconvolutions that halve the channels,
  each followed by a 1 x 1 and a 3 x 3 convolution with layer norm.

The sixth level is every other cell of the fifth. Patches of 14 px give strides of 3.5, 7, 14, 28 and 56 px.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from densebench.backbones.backbone import Backbone
from densebench.backbones.timm_models import AttentionTrunk, ProjectionTrunk, Trunk, has_equal_blocks
from densebench.console import notice
from densebench.errors import UserError

STRIDES = (4, 8, 16, 32)
NAMES = ("0", "1", "2", "3", "pool")
OF_TWELVE = (3, 5, 7, 11)  # blocks, from 0, that FLSL, SelfPatch and XCiT build their pyramids on


class Layers(nn.Module):
    """Grids of one or several layers of a backbone's trained copy: one grid a layer, with its width and its stride in px.

    ViT features are those of the blocks, before the final norm, as FLSL's and ViTDet's codes take them. Batch norms of the
    backbone keep their statistics and weights. depth: blocks of a ViT, 0 for other models.
    """

    def __init__(self, trunk: nn.Module, widths: tuple[int, ...], strides: tuple[int, ...], depth: int = 0) -> None:
        super().__init__()
        self.trunk: Any = trunk
        self.widths, self.strides, self.depth = widths, strides, depth
        for parameter in trunk.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        for norm in self._batch_norms():
            norm.requires_grad_(False)

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.trunk.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> Layers:
        """Switch dropout and stochastic depth; batch norms stay as they are."""
        super().train(mode)
        for norm in self._batch_norms():
            norm.eval()
        return self

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the grids of normalised images, whose sides the strides must divide."""
        return self.trunk.grids(images) if isinstance(self.trunk, Trunk) else [self.trunk(images)]


def trained_layers(backbone: Backbone, pyramid: str, drop_path: float) -> Layers:
    """Return a copy of a backbone at the layers of a pyramid: four of them (fpn), or the last one (simple).

    `--layer` of four blocks chooses those of the fpn, of one block that of the simple pyramid.
    Raises UserError for a backbone without weights, and for layers that no pyramid can be built on.
    """
    if not backbone.params:
        raise UserError(f"{backbone.spec} has no weights to fine-tune; --protocol bbox-knn scores it")
    trunk = copy.deepcopy(backbone.trunk)
    if not isinstance(trunk, Trunk):
        if pyramid == "fpn":
            raise UserError(f"--pyramid fpn takes layers of a timm model, which {backbone.spec} is not; use --pyramid simple")
        return Layers(trunk, (backbone.dim,), (backbone.stride,))
    if isinstance(trunk, (AttentionTrunk, ProjectionTrunk)):
        raise UserError(f"--layer {backbone.layer}: a detector is built on blocks; give last or their numbers")
    trunk.normed = False
    if has_equal_blocks(trunk.model):
        return _blocks(trunk, backbone, pyramid, drop_path)
    return _stages(trunk, backbone, pyramid, drop_path)


def _blocks(trunk: Trunk, backbone: Backbone, pyramid: str, drop_path: float) -> Layers:
    depth, several = len(trunk.model.blocks), len(STRIDES) if pyramid == "fpn" else 1
    if backbone.layer == "last" and pyramid == "fpn":
        trunk.layers = evenly(depth)
    if len(trunk.layers) != several:
        raise UserError(
            f"--layer {backbone.layer}: --pyramid {pyramid} takes {several} of the {depth} blocks; give last or as many"
        )
    _drop(trunk.model.blocks, drop_path)
    width = int(trunk.model.embed_dim)
    return Layers(trunk, (width,) * several, (backbone.stride,) * several, depth)


def evenly(depth: int) -> list[int]:
    """Return blocks 3, 5, 7 and 11 of twelve, and their counterparts at any depth; the last block is always among them."""
    return [max(0, round((block + 1) * depth / 12) - 1) for block in OF_TWELVE]


def _stages(trunk: Trunk, backbone: Backbone, pyramid: str, drop_path: float) -> Layers:
    if backbone.layer != "last":
        raise UserError(f"--layer {backbone.layer}: the pyramid is built on the stages that {backbone.spec} has; leave it out")
    stages = {int(info["reduction"]): number for number, info in enumerate(trunk.model.feature_info)}  # the last of each stride
    wanted = [stride for stride in STRIDES if stride in stages] if pyramid == "fpn" else [backbone.stride]
    if pyramid == "fpn" and len(wanted) < len(STRIDES):
        known = ", ".join(map(str, stages))
        raise UserError(f"--pyramid fpn takes stages of strides 4, 8, 16, 32; {backbone.spec} has {known}; use --pyramid simple")
    trunk.layers = [stages[stride] for stride in wanted]
    if drop_path:
        notice("the backbone is not a row of residual blocks: it is trained without stochastic depth")
    widths = tuple(int(trunk.model.feature_info[number]["num_chs"]) for number in trunk.layers)
    return Layers(trunk, widths, tuple(wanted))


def _drop(blocks: Any, rate: float) -> None:
    """Give both branches of every block stochastic depth, from 0 in the first to `rate` in the last."""
    if not rate:
        return
    if not all(hasattr(block, "drop_path1") and hasattr(block, "drop_path2") for block in blocks):
        notice("the backbone's blocks have no stochastic depth: it is trained without it")
        return
    for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)


class Pyramid(nn.Module):
    """A trained backbone with a pyramid on it, as torchvision's detectors take it.

    strides: px of each level's cells, exact for any patch. divisor: what the sides of images must be multiples of.
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
            self.levels = nn.ModuleList(_simple_level(dim, scale, width) for dim, scale in zip(widths, scales, strict=True))
            self.top = LastLevelMaxPool()
        else:
            self.levels = nn.ModuleList(_rescaled(dim, scale) for dim, scale in zip(widths, scales, strict=True))
            self.top = FeaturePyramidNetwork(list(widths), width, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> OrderedDict[str, Tensor]:
        """Return the maps of normalised images, finest first; `divisor` must divide the sides."""
        grids = self.layers(images)
        maps = [level(grid) for level, grid in zip(self.levels, grids * (4 if self.simple else 1), strict=True)]
        if self.simple:
            return OrderedDict(zip(NAMES, self.top(maps, maps, [*NAMES[:4]])[0], strict=True))
        return self.top(OrderedDict(zip(NAMES, maps, strict=False)))


def octaves(stride: float, level: float) -> int:
    """Return how often a grid of `stride` px is doubled to come nearest to `level` px; below 0: how often it is halved."""
    return round(math.log2(stride / level))


def _rescaled(width: int, scale: int) -> nn.Module:
    """Return layers that double (below 0: halve) a grid `scale` times and keep its width."""
    if scale <= 0:
        return nn.MaxPool2d(2**-scale) if scale else nn.Identity()
    parts: list[nn.Module] = [nn.ConvTranspose2d(width, width, 2, stride=2)]
    for _ in range(scale - 1):
        parts += [nn.BatchNorm2d(width), nn.GELU(), nn.ConvTranspose2d(width, width, 2, stride=2)]
    return nn.Sequential(*parts)


def _simple_level(width: int, scale: int, out: int) -> nn.Module:
    """Return a level of the simple pyramid, `out` wide; each deconvolution halves the width."""
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
