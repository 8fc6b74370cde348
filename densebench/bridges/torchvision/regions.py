"""Boxes, classes and masks of regions. Masks are grids over boxes, whose edges may lie between pixels.

He et al., Mask R-CNN, ICCV 2017. When torchvision crops the target grids from masks, it puts pixel centres at integers, uses
shares between 0 and 1 as targets, and pastes predicted grids into boxes of whole pixels: a shift of half a pixel, which matters
for small objects. Here, as in MMDetection and detectron2, pixel centres lie at halves, targets are 0 or 1, and boxes are exact.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import roi_align

TOGETHER = 2**25  # pixels of masks that a GPU computes at once
INSIDE = 0.5  # least share or probability at which a cell or pixel belongs to a mask


def cut(
    masks: UInt8[Tensor, "n h w"], boxes: Float[Tensor, "k 4"], which: Int[Tensor, "k"], side: int
) -> Float[Tensor, "k side side"]:
    """Return the target grid of each box: 1 where at least half of a cell lies inside its mask, else 0.

    boxes: left, top, right, bottom in px. which: the index of each box's mask. side: cells of a grid per side.
    """
    regions = torch.cat([which[:, None].to(boxes), boxes], dim=1)
    shares = roi_align(masks[:, None].to(boxes), regions, (side, side), 1.0, 0, aligned=True)[:, 0]
    return (shares >= INSIDE).to(boxes)


def paste(
    grids: Float[Tensor, "n side side"], boxes: Float[Tensor, "n 4"], height: int, width: int
) -> UInt8[Tensor, "n height width"]:
    """Return masks of height x width px from grids of probabilities over boxes: bilinear at pixel centres, 0 outside of the box.

    boxes: left, top, right, bottom in px. On a CPU masks are made one at a time, on a GPU as many as TOGETHER allows, so that
    only their bytes stay in memory.
    """
    masks = torch.zeros(len(grids), height, width, dtype=torch.uint8, device=grids.device)
    some = max(1, TOGETHER // (height * width)) if grids.is_cuda else 1
    for of_some, part, edges in zip(masks.split(some), grids.split(some), boxes.split(some), strict=True):
        left, top, right, bottom = edges.T
        down, across = _weights(top, bottom, height, part.shape[1]), _weights(left, right, width, part.shape[2])
        of_some.copy_(down @ part @ across.mT >= INSIDE)
    return masks


def _weights(low: Tensor, high: Tensor, pixels: int, cells: int) -> Float[Tensor, "n pixels cells"]:
    """Return the bilinear weights at each pixel's centre of the cells between two edges (px); beyond the cells values are 0."""
    low, high = low[:, None], high[:, None]
    indices = torch.arange(max(pixels, cells), device=low.device).to(low.dtype)
    centres = (indices[:pixels] + 0.5 - low) / (high - low) * cells - 0.5
    return (1 - (centres[:, :, None] - indices[:cells]).abs()).clamp(min=0)


class Regions(RoIHeads):
    """torchvision's heads, with other target grids for masks."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return the detections in each image, or the losses in training."""
        if not self.training:
            return super().forward(features, proposals, image_shapes)
        assert targets is not None, "training takes truth"
        chosen, matched, labels, offsets = self.select_training_samples(proposals, targets)
        scores, moves = self.box_predictor(self.box_head(self.box_roi_pool(features, chosen, image_shapes)))
        losses = dict(zip(("loss_classifier", "loss_box_reg"), fastrcnn_loss(scores, moves, labels, offsets), strict=True))
        if self.has_mask():
            objects = [rows > 0 for rows in labels]
            boxes, which, classes = (
                [rows[positive] for rows, positive in zip(parts, objects, strict=True)] for parts in (chosen, matched, labels)
            )
            logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
            losses["loss_mask"] = mask_loss(logits, boxes, which, torch.cat(classes), [truth["masks"] for truth in targets])
        return [], losses


def mask_loss(
    logits: Float[Tensor, "k classes side side"], boxes: list[Any], which: list[Any], classes: Int[Tensor, "k"], masks: list[Any]
) -> Float[Tensor, ""]:
    """Return the mean binary cross-entropy of the grids of each region's true class; 0 where there is no region.

    classes: the true class of all k regions. By image: boxes `[k_i 4]`, the index of each box's mask (`which`, `[k_i]`), and
    masks `[n_i h w]`.
    """
    if not len(logits):
        return logits.sum() * 0
    truth = [cut(mask, box, index, logits.shape[-1]) for mask, box, index in zip(masks, boxes, which, strict=True)]
    grids = logits[torch.arange(len(classes), device=logits.device), classes]
    return F.binary_cross_entropy_with_logits(grids, torch.cat(truth))
