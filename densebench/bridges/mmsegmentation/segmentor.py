"""Our backbones under MMSegmentation's heads: several heads side by side on one frozen backbone, or one on a trained one."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from timm.layers import DropPath
from torch import Tensor, nn

from densebench.backbones.backbone import Backbone
from densebench.console import notice
from densebench.features.extract import autocast

HEADS_APART = 512  # between the random numbers of backbone and heads in one iteration
WINDOWS = 8  # windows of an image that go through the backbone at once


class Frozen(nn.Module):
    """Features of a frozen backbone: no gradient, no training mode, no checkpoint reaches it, for it is not a submodule.

    drop_path: stochastic depth while the heads train, which the reference leaves on by accident; a copy of the model has it.
    """

    def __init__(self, backbone: Backbone, precision: str, drop_path: float = 0.0) -> None:
        super().__init__()
        self.precision, self.stride = precision, backbone.stride
        self._still = [backbone.trunk]
        self._shaken = [with_drop_path(copy.deepcopy(backbone.trunk), drop_path)] if drop_path else self._still

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d gh gw"]]:
        """Float32 features of normalised images; padded at the right and at the bottom to the stride."""
        trunk = (self._shaken if self.training else self._still)[0].to(images.device)
        for module in trunk.modules() if trunk is not self._still[0] else ():
            module.train(isinstance(module, DropPath))
        with torch.no_grad(), autocast(images.device, self.precision):
            return (trunk(padded(images, self.stride)).float(),)


class Trained(nn.Module):
    """Features of a copy of a backbone, which is trained together with the head."""

    def __init__(self, backbone: Backbone, drop_path: float) -> None:
        super().__init__()
        self.stride = backbone.stride
        self.trunk = with_drop_path(copy.deepcopy(backbone.trunk), drop_path).requires_grad_(True)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d gh gw"]]:
        """Features of normalised images; padded at the right and at the bottom to the stride."""
        return (self.trunk(padded(images, self.stride)),)


def padded(images: Float[Tensor, "b 3 h w"], stride: int) -> Float[Tensor, "b 3 rows columns"]:
    """Images with zeros at the bottom and at the right, so that the stride divides both sides."""
    return F.pad(images, (0, -images.shape[3] % stride, 0, -images.shape[2] % stride))


def with_drop_path(trunk: nn.Module, rate: float) -> nn.Module:
    """Give the MLPs of a timm ViT's blocks stochastic depth, from 0 in the first to `rate` in the last.

    MMSegmentation's ViT drops the MLP's branch alone; attention is never dropped.
    """
    blocks = getattr(getattr(trunk, "model", None), "blocks", None)
    if rate and (blocks is None or not all(hasattr(block, "drop_path2") for block in blocks)):
        notice("the backbone has no row of residual blocks: it is trained without stochastic depth")
    elif rate:
        for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):  # type: ignore[arg-type]
            block.drop_path2 = DropPath(share)
    return trunk


class BatchNormHead(BaseDecodeHead):
    """Dropout, batch norm and a 1 x 1 convolution: the linear head of DINOv2 and DINOv3."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.norm = nn.BatchNorm2d(self.in_channels)

    def forward(self, inputs: tuple[Tensor]) -> Tensor:
        """Class scores of a grid of features."""
        features = self._transform_inputs(inputs)
        if self.dropout is not None:
            features = self.dropout(features)
        return self.conv_seg(self.norm(features))


class SideBySide(EncoderDecoder):
    """Heads that differ in nothing but their learning rate, on one forward pass of the backbone.

    The total loss is the sum of theirs; as they share no parameter, each has the gradient that it would have alone.
    """

    def __init__(
        self, backbone: nn.Module, heads: int, head: dict[str, Any], *, seed: int, precision: str, **settings: Any
    ) -> None:
        self.heads: Any = heads
        self.seed = seed
        super().__init__(backbone={"type": lambda: backbone}, decode_head=head, **settings)
        self.precision = precision

    def _init_decode_head(self, decode_head: dict[str, Any]) -> None:
        kind = decode_head.pop("type")
        self.decode_head: Any = nn.ModuleList(kind(**decode_head) for _ in range(self.heads))
        self.align_corners, self.num_classes = False, self.decode_head[0].num_classes
        self.out_channels: int = self.heads * self.num_classes

    def init_weights(self) -> None:
        """Every head begins with the same weights; the backbone keeps its own."""
        torch.manual_seed(self.seed)
        self.decode_head[0].init_weights()
        for head in self.decode_head[1:]:
            head.load_state_dict(self.decode_head[0].state_dict())

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """Cross-entropy of each head on logits upsampled to the label maps, as the head's `loss_decode` takes it.

        That is `head.loss` without the accuracy, which takes longer than the rest of a linear head.
        """
        truth = torch.stack([sample.gt_sem_seg.data for sample in data_samples]).squeeze(1)
        found, seed = {}, torch.initial_seed() + HEADS_APART
        with autocast(inputs.device, self.precision):
            features = self.extract_feat(inputs)
            for number, head in enumerate(self.decode_head):
                torch.manual_seed(seed)  # every head drops the same features
                logits = self._upsampled(head.forward(features), truth.shape[1], truth.shape[2])
                found[f"loss_{number}"] = head.loss_decode(logits, truth, ignore_index=head.ignore_index)
        return found

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Float[Tensor, "b heads_classes h w"]:
        """Logits of all heads at the size of the input; what was padded to the stride is cut off again."""
        with autocast(inputs.device, self.precision):
            features = self.extract_feat(inputs)
            logits = torch.cat([head.forward(features) for head in self.decode_head], dim=1).float()
        return self._upsampled(logits, inputs.shape[2], inputs.shape[3])

    def _upsampled(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Logits of an image of this size, whose grid also covers what was padded to the stride."""
        side = self.backbone.stride
        full = (height + -height % side, width + -width % side)
        return F.interpolate(logits, full, mode="bilinear", align_corners=False)[:, :, :height, :width]

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Float[Tensor, "b heads_classes h w"]:
        """Mean logits of windows as MMSegmentation places them, a few windows in one forward pass."""
        height, width = inputs.shape[2:]
        places = windows(height, width, self.test_cfg["crop_size"][0], self.test_cfg["stride"][0])
        total = inputs.new_zeros(len(inputs), self.out_channels, height, width)
        times = inputs.new_zeros(1, 1, height, width)
        for start in range(0, len(places), WINDOWS):
            some = places[start : start + WINDOWS]
            crops = torch.cat([inputs[:, :, top:bottom, left:right] for top, bottom, left, right in some])
            for (top, bottom, left, right), logits in zip(some, self.encode_decode(crops, []).split(len(inputs)), strict=True):
                total[:, :, top:bottom, left:right] += logits
                times[:, :, top:bottom, left:right] += 1
        return total / times

    def postprocess_result(self, seg_logits: Tensor, data_samples: Any = None) -> Any:
        """Label maps of every head at the image's original size: uint8 [heads, h, w]."""
        for logits, sample in zip(seg_logits, data_samples, strict=True):
            maps = label_maps(logits, self.heads, sample.metainfo["ori_shape"])
            sample.set_data({"pred_sem_seg": PixelData(data=maps)})
        return data_samples


def windows(height: int, width: int, crop: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of sliding windows; the last of a row or column is moved back to end with the image."""

    def along(length: int) -> list[tuple[int, int]]:
        count = max(length - crop + stride - 1, 0) // stride + 1
        ends = [min(number * stride + crop, length) for number in range(count)]
        return [(max(end - crop, 0), end) for end in ends]

    return [(top, bottom, left, right) for top, bottom in along(height) for left, right in along(width)]


def label_maps(
    logits: Float[Tensor, "heads_classes h w"], heads: int, size: tuple[int, int]
) -> UInt8[Tensor, "heads rows columns"]:
    """The best class of each head at each pixel of the original image."""
    found = []
    for own in logits.chunk(heads):
        resized = F.interpolate(own[None], tuple(size), mode="bilinear", align_corners=False)[0]
        found.append(resized.argmax(dim=0).to(torch.uint8))
    return torch.stack(found)
