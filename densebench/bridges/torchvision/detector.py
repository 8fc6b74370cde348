"""Faster R-CNN and Mask R-CNN of torchvision on our backbones.

Ren et al., Faster R-CNN, NeurIPS 2015; He et al., Mask R-CNN, ICCV 2017. Where torchvision's defaults differ from those of
MMDetection and detectron2, which the published numbers come from, the detectors follow the latter: 1000 proposals, RoI align with
pixel centres at halves and as many samples as a bin has cells, masks as in `regions`. What remains is torchvision's smooth L1
loss (beta 1/9), where the others use L1.

torchvision infers strides from the sizes of maps, as integers for anchors and as powers of two for pooling. Both would be wrong
for patches of 14 px, so here strides are given.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from densebench.backbones.backbone import Backbone
from densebench.bridges.torchvision.options import Options
from densebench.bridges.torchvision.pyramid import NAMES, Pyramid, trained_layers
from densebench.bridges.torchvision.regions import Regions
from densebench.errors import UserError
from densebench.numerics.host_copy import HostCopy

ANCHORS = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
PROPOSALS: dict[str, Any] = {
    "fg_iou_thresh": 0.7, "bg_iou_thresh": 0.3, "batch_size_per_image": 256, "positive_fraction": 0.5, "nms_thresh": 0.7,
    "pre_nms_top_n": {"training": 2000, "testing": 1000}, "post_nms_top_n": {"training": 1000, "testing": 1000},
}  # fmt: skip
REGIONS: dict[str, Any] = {
    "fg_iou_thresh": 0.5, "bg_iou_thresh": 0.5, "positive_fraction": 0.25, "bbox_reg_weights": (10.0, 10.0, 5.0, 5.0),
    "score_thresh": 0.05, "nms_thresh": 0.5,
}  # fmt: skip


class Anchors(AnchorGenerator):
    """Anchors at the exact strides of a pyramid, always float32: in half precision they would be off by pixels."""

    def __init__(self, strides: tuple[float, ...]) -> None:
        super().__init__(tuple((side,) for side in ANCHORS), (RATIOS,) * len(ANCHORS))
        self.strides = strides

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of every image: left, top, right, bottom, level by level and cell by cell."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        steps = [[torch.full((), stride, device=device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors([list(grid.shape[-2:]) for grid in feature_maps], steps))
        return [anchors] * len(image_list.image_sizes)


class Pooling(MultiScaleRoIAlign):
    """RoI align on the level that fits a region's size, at the exact strides of a pyramid."""

    def __init__(self, size: int, strides: tuple[float, ...]) -> None:
        super().__init__(list(NAMES[:4]), size, sampling_ratio=0)
        self.strides = strides[:4]
        self.level = LevelMapper(2, 5, self.canonical_scale, self.canonical_level)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        """Return the features of all boxes of all images, in their order. On a GPU the host waits once, for the levels' sizes."""
        levels = self.level(boxes)
        order = levels.argsort(stable=True)
        sizes = HostCopy(torch.stack([(levels == number).sum() for number in range(len(self.strides))]))
        images = torch.cat([torch.full_like(rows[:, :1], number) for number, rows in enumerate(boxes)])
        regions = torch.cat([images, torch.cat(boxes)], dim=1)
        features = x[NAMES[0]].new_zeros(len(regions), x[NAMES[0]].shape[1], *self.output_size)
        for name, stride, rows in zip(NAMES, self.strides, order.split(sizes.value().tolist()), strict=False):
            pooled = roi_align(x[name], regions[rows], self.output_size, 1 / stride, self.sampling_ratio, aligned=True)
            features = features.index_put((rows,), pooled.to(features.dtype))
        return features


class InFloat(nn.Module):
    """A head whose outputs are cast to float32, so that boxes and losses are computed in it whatever the precision of layers."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Any) -> Any:
        """Return the outputs of the head."""
        return _float(self.head(x))


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else type(value)(_float(part) for part in value)


class Transform(GeneralizedRCNNTransform):
    """Normalises and pads images, but resizes nothing: images have the detector's size, and detections stay in it."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Return the image and target unchanged: images were resized by Pillow before."""
        return image, target

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: Any, original_image_sizes: Any
    ) -> list[dict[str, Tensor]]:
        """Return detections unchanged: boxes in px of the given images, masks as grids over their boxes."""
        return result


def build(backbone: Backbone, classes: int, options: Options) -> GeneralizedRCNN:
    """Return a detector of `classes` classes, numbered from 1, on a copy of the backbone. The seed decides its first weights.

    In training it takes images with their truth and returns losses; otherwise it returns boxes in px of the images, and masks as
    grids of 28 x 28 over their boxes.
    Raises UserError for a backbone that no pyramid can be built on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.train_seed)
        layers = trained_layers(backbone, options.pyramid, options.drop_path)
        if options.layer_decay != 1 and not layers.depth:
            raise UserError(f"--layer-decay {options.layer_decay:g}: {backbone.spec} is not a row of blocks; give 1")
        pyramid = Pyramid(layers, options.pyramid == "simple", options.width)
        sizes = {"batch_size_per_image": options.regions, "detections_per_img": options.detections}
        head = RPNHead(options.width, len(RATIOS), conv_depth=2 if options.heads == "normed" else 1)
        proposals = RegionProposalNetwork(Anchors(pyramid.strides), InFloat(head), **PROPOSALS)
        regions = Regions(**_heads(pyramid, classes + 1, options), **REGIONS, **sizes)
    padded = pyramid.divisor
    if options.augmentation == "lsj":  # pad to a square of the long side, in training and in scoring
        padded = math.ceil(options.longest / pyramid.divisor) * pyramid.divisor
    transform = Transform(options.short_side, options.longest, list(backbone.mean), list(backbone.std), padded)
    return GeneralizedRCNN(pyramid, proposals, regions, transform)


def _heads(pyramid: Pyramid, outputs: int, options: Options) -> dict[str, Any]:
    norm = LayerNorm2d if options.heads == "normed" else None
    width, vector = options.width, 4 * options.width
    box_head: nn.Module = TwoMLPHead(width * 7**2, vector)
    if norm:
        box_head = FastRCNNConvFCHead((width, 7, 7), [width] * 4, [vector], norm_layer=norm)
    parts: dict[str, Any] = {
        "box_roi_pool": Pooling(7, pyramid.strides),
        "box_head": box_head,
        "box_predictor": InFloat(FastRCNNPredictor(vector, outputs)),
    }
    if options.model == "mask-rcnn":
        parts["mask_roi_pool"] = Pooling(14, pyramid.strides)
        parts["mask_head"] = MaskRCNNHeads(width, [width] * 4, 1, norm_layer=norm)
        parts["mask_predictor"] = InFloat(MaskRCNNPredictor(width, width, outputs))
    return parts
