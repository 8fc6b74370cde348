"""A backbone's copy that is trained, seen at the layers that a pyramid is built on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from densebench.backbones.backbone import Backbone
from densebench.backbones.timm_models import AttentionTrunk, ProjectionTrunk, TimmTrunk, has_equal_blocks
from densebench.console import notice
from densebench.errors import UserError

STRIDES = (4, 8, 16, 32)
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
        """The grids of normalised images, whose sides the strides divide."""
        return self.trunk.grids(images) if isinstance(self.trunk, TimmTrunk) else [self.trunk(images)]


def trained_layers(backbone: Backbone, pyramid: str, drop_path: float) -> Layers:
    """A copy of a backbone at the layers of a pyramid: four of them (fpn), or the last one (simple).

    `--layer` of four blocks chooses those of the fpn, of one block that of the simple pyramid.
    Raises UserError for a backbone without weights, and for layers that no pyramid can be built on.
    """
    if not backbone.params:
        raise UserError(f"{backbone.spec} has no weights to fine-tune; --protocol bbox-knn scores it")
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
    """Blocks 3, 5, 7 and 11 of twelve, and their like of any depth; the last one is always there."""
    return [max(0, round((block + 1) * depth / 12) - 1) for block in OF_TWELVE]


def _stages(trunk: TimmTrunk, backbone: Backbone, pyramid: str, drop_path: float) -> Layers:
    if backbone.layer != "last":
        raise UserError(f"--layer {backbone.layer}: the pyramid is built on the stages that {backbone.spec} has; leave it out")
    stages = {int(info["reduction"]): number for number, info in enumerate(trunk.model.feature_info)}  # the last of each stride
    wanted = [stride for stride in STRIDES if stride in stages] if pyramid == "fpn" else [backbone.stride]
    if pyramid == "fpn" and len(wanted) < len(STRIDES):
        there = ", ".join(map(str, stages))
        raise UserError(f"--pyramid fpn takes stages of strides 4, 8, 16, 32; {backbone.spec} has {there}; use --pyramid simple")
    trunk.layers = [stages[stride] for stride in wanted]
    if drop_path:
        notice("the backbone has no row of residual blocks: it is trained without stochastic depth")
    widths = tuple(int(trunk.model.feature_info[number]["num_chs"]) for number in trunk.layers)
    return Layers(trunk, widths, tuple(wanted))


def _drop(blocks: Any, rate: float) -> None:
    """Give both branches of every block stochastic depth, from 0 in the first to `rate` in the last."""
    if not rate:
        return
    if not all(hasattr(block, "drop_path1") and hasattr(block, "drop_path2") for block in blocks):
        notice("the backbone's blocks have no stochastic depth: it is trained without")
        return
    for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)
