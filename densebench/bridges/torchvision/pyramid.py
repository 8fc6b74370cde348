"""A trained copy of a backbone, and the pyramid of maps that detectors take, with strides of about 4, 8, 16, 32 and 64 px.

- fpn: Lin et al., Feature Pyramid Networks, CVPR 2017, on four layers of a ViT that are first resampled to four strides as in
  XCiT, SelfPatch and FLSL (2 x 2 deconvolutions, with batch norm and GELU between two of them, and max pooling), or on the stages
  of a network that has them.
- simple: Li et al., ViTDet, ECCV 2022: the last grid only, resampled to four strides by deconvolutions that halve the channels,
  each followed by a 1 x 1 and a 3 x 3 convolution with layer norm.

The coarsest level takes every other cell of the one before. Patches of 14 px give strides of 3.5, 7, 14, 28 and 56 px.
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
from densebench.backbones.debiased import check_frozen
from densebench.backbones.timm_models import AttentionTrunk, ProjectionTrunk, TimmTrunk, has_equal_blocks
from densebench.console import warn
from densebench.errors import UserError

STRIDES = (4, 8, 16, 32)
NAMES = ("0", "1", "2", "3", "pool")
OF_TWELVE = (3, 5, 7, 11)  # of 12 blocks, from 0, those on which FLSL, SelfPatch and XCiT build their pyramids


class Layers(nn.Module):
    """Grids of one or several layers of a trained copy of a backbone.

    widths, strides: channels and stride in px of each layer's grid. depth: number of blocks of a ViT, 0 for other models.
    Features of a ViT are taken before the final norm, as in FLSL's and ViTDet's codes. Batch norms of the backbone are not
    trained.
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
        """Switch dropout and stochastic depth on or off; the backbone's batch norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._batch_norms():
            norm.eval()
        return self

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the grids of normalised images, whose sides must be multiples of the strides."""
        return self.trunk.grids(images) if isinstance(self.trunk, TimmTrunk) else [self.trunk(images)]


def trained_layers(backbone: Backbone, pyramid: str, drop_path: float) -> Layers:
    """Return a trainable copy of a backbone with the layers for a pyramid: four (fpn), or the last one (simple).

    `--layer` chooses other blocks: four for fpn, one for the simple pyramid.
    Raises UserError for a backbone without weights, and for layers that no pyramid can be built on.
    """
    if not backbone.params:
        raise UserError(f"{backbone.spec} has no weights to fine-tune; --protocol bbox-knn scores it")
    check_frozen(backbone, "a detector")
    trunk = copy.deepcopy(backbone.trunk)
    if not isinstance(trunk, TimmTrunk):
        if pyramid == "fpn":
            raise UserError(f"--pyramid fpn takes layers of a timm model, which {backbone.spec} is not; use --pyramid simple")
        return Layers(trunk, (backbone.dim,), (backbone.stride,))
    if isinstance(trunk, (AttentionTrunk, ProjectionTrunk)):
        raise UserError(f"--layer {backbone.layer}: a detector is built on blocks; give last or their numbers")
    trunk.normed = False
    if has_equal_blocks(trunk.model):
        return _blocks(trunk, backbone, pyramid, drop_path)
    return _stages(trunk, backbone, pyramid, drop_path)


def _blocks(trunk: TimmTrunk, backbone: Backbone, pyramid: str, drop_path: float) -> Layers:
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


def _stages(trunk: TimmTrunk, backbone: Backbone, pyramid: str, drop_path: float) -> Layers:
    if backbone.layer != "last":
        raise UserError(f"--layer {backbone.layer}: the pyramid is built on the stages that {backbone.spec} has; leave it out")
    stages = {
        int(info["reduction"]): number for number, info in enumerate(trunk.model.feature_info)
    }  # the last stage of each stride
    wanted = [stride for stride in STRIDES if stride in stages] if pyramid == "fpn" else [backbone.stride]
    if pyramid == "fpn" and len(wanted) < len(STRIDES):
        known = ", ".join(map(str, stages))
        raise UserError(f"--pyramid fpn takes stages of strides 4, 8, 16, 32; {backbone.spec} has {known}; use --pyramid simple")
    trunk.layers = [stages[stride] for stride in wanted]
    if drop_path:
        warn("the backbone is not a row of residual blocks: it is trained without stochastic depth")
    widths = tuple(int(trunk.model.feature_info[number]["num_chs"]) for number in trunk.layers)
    return Layers(trunk, widths, tuple(wanted))


def _drop(blocks: Any, rate: float) -> None:
    """Set the stochastic depth of both branches of every block, from 0 in the first block to `rate` in the last."""
    if not rate:
        return
    if not all(hasattr(block, "drop_path1") and hasattr(block, "drop_path2") for block in blocks):
        warn("the backbone's blocks have no stochastic depth: it is trained without it")
        return
    for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)


class Pyramid(nn.Module):
    """A trained backbone with a feature pyramid, in the form that torchvision's detectors take.

    strides: exact stride of each level in px. divisor: the number of which the sides of images must be multiples, px.
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
        """Return the maps of normalised images by level, finest first. Sides must be multiples of `divisor`."""
        grids = self.layers(images)
        maps = [level(grid) for level, grid in zip(self.levels, grids * (4 if self.simple else 1), strict=True)]
        if self.simple:
            return OrderedDict(zip(NAMES, self.top(maps, maps, [*NAMES[:4]])[0], strict=True))
        return self.top(OrderedDict(zip(NAMES, maps, strict=False)))


def octaves(stride: float, level: float) -> int:
    """Return how many times to double (below 0: halve) a grid of `stride` px to come nearest to a stride of `level` px."""
    return round(math.log2(stride / level))


def _rescaled(width: int, scale: int) -> nn.Module:
    """Return layers that double (below 0: halve) the size of a grid `scale` times without changing its channels."""
    if scale <= 0:
        return nn.MaxPool2d(2**-scale) if scale else nn.Identity()
    parts: list[nn.Module] = [nn.ConvTranspose2d(width, width, 2, stride=2)]
    for _ in range(scale - 1):
        parts += [nn.BatchNorm2d(width), nn.GELU(), nn.ConvTranspose2d(width, width, 2, stride=2)]
    return nn.Sequential(*parts)


def _simple_level(width: int, scale: int, out: int) -> nn.Module:
    """Return the layers of one level of the simple pyramid, with `out` channels; each deconvolution halves the channels."""
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
