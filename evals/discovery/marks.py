"""How well a box and a mask fit the objects of a picture: IoU with boxes, and IoU, accuracy and F of masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.evals.discovery.findings import Box
from densebench.evals.discovery.truth import Truth

HIT = 0.5  # the IoU from which on a box has found an object
EPSILON = 1e-7  # what LOST's code adds to heights and unions
BETA2 = 0.3  # the weight of precision in F, squared beta: that of salient object detection
THRESHOLDS = np.arange(0.0, 1.0, 1 / 255)
"""The values that a pixel must exceed to count as found, one after the other, as TokenCut's code has them."""


def box_ious(box: Box, boxes: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, "k"]:
    """Return the intersection over union of a box and each of some others, float64; 0 where neither has an area."""
    own = np.array(box)
    sides = (np.minimum(own[2:], boxes[:, 2:]) - np.maximum(own[:2], boxes[:, :2])).clip(min=0)
    common = sides.prod(1)
    union = (own[2:] - own[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common
    return np.divide(common, union, out=np.zeros(len(boxes)), where=union > 0)


def lost_box_ious(box: Box, boxes: Float[np.ndarray, "k 4"], dtype: torch.dtype = torch.float32) -> Float[np.ndarray, "k"]:
    """Return the intersection over union as LOST's code computes it: corners in whole px, 1e-7 added to heights and union.

    In float32, as there, the 1e-7 vanishes beside any height; in float64 it turns an exact 0.5 into a miss.
    """
    own, others = torch.tensor(box).round().to(dtype), torch.from_numpy(boxes).round().to(dtype)
    sides = (torch.minimum(own[2:], others[:, 2:]) - torch.maximum(own[:2], others[:, :2])).clamp(min=0)
    common = sides.prod(1)
    area, areas = (_area(each) for each in (own, others))
    return (common / (area + areas - common + EPSILON)).double().numpy()


def _area(boxes: Tensor) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return width * (height + EPSILON)


def f_measure(precision: Float[np.ndarray, "t"], recall: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Return (1 + b) P R / (b P + R) with b = 0.3; 0 where both are 0."""
    weighted = BETA2 * precision + recall
    return np.divide((1 + BETA2) * precision * recall, weighted, out=np.zeros_like(weighted), where=weighted > 0)


def f_curve(prediction: np.ndarray, truth: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "255"]:
    """Return F at each of THRESHOLDS; the precision of an empty prediction is 1, and F is 0 where no pixel shows an object.

    prediction: bool [n], or float [n] in 0..1, of the pixels that are scored.
    """
    exceeded = 255 * prediction.astype(np.int64) if prediction.dtype == bool else np.searchsorted(THRESHOLDS, prediction)
    counts = [np.bincount(exceeded[chosen], minlength=256)[::-1].cumsum()[::-1][1:] for chosen in (truth, slice(None))]
    right, found = (count.astype(np.float64) for count in counts)
    precision = np.divide(right, found, out=np.ones(255), where=found > 0)
    return f_measure(precision, right / max(1, truth.sum()))


class MaskMarks(NamedTuple):
    """How well a mask fits: IoU and the share of right pixels, 0..1, and F at each of THRESHOLDS."""

    iou: float
    accuracy: float
    f: Float[np.ndarray, "255"]


def mask_marks(prediction: Bool[np.ndarray, "h w"], truth: Truth) -> MaskMarks:
    """Return how well a mask of pixels fits the objects of a picture; pixels without a label do not count.

    An object may have a box and no pixel in its mask: IoU and F are 0 where there is no other.
    """
    assert truth.mask is not None and truth.scored is not None
    own, there = prediction[truth.scored], truth.mask[truth.scored]
    common, union, right = (each.sum() for each in (own & there, own | there, own == there))
    return MaskMarks(float(common / max(1, union)), float(right / max(1, len(own))), f_curve(own, there))


@dataclass(frozen=True, eq=False)
class Marks:
    """How well what was found fits the objects of one picture.

    iou: with the object that the box fits best, 0..1; hit: whether that reaches 0.5. classes: for each class that the picture
    shows, whether the box hits an object of it. mask: None without masks.
    """

    iou: float = 0.0
    hit: bool = False
    classes: dict[int, bool] = field(default_factory=dict)
    mask: MaskMarks | None = None


def marks_of(box: Box | None, mask: Bool[np.ndarray, "h w"] | None, truth: Truth, matching: str) -> Marks:
    """Return how well a box and a mask of pixels (None where the truth has none) fit a picture.

    box: None where nothing was found. matching: "exact", or "lost" as in LOST's code.
    """
    ious = np.zeros(len(truth.boxes))
    if box is not None:
        ious = (lost_box_ious if matching == "lost" else box_ious)(box, truth.boxes)
    hits: Int[np.ndarray, "m"] = truth.classes[ious >= HIT]
    classes = {label: label in hits for label in sorted(set(truth.classes.tolist()))}
    of_mask = None if mask is None or truth.mask is None else mask_marks(mask, truth)
    return Marks(float(ious.max(initial=0.0)), len(hits) > 0, classes, of_mask)


def upsampled(mask: Bool[np.ndarray, "rows columns"], size: tuple[int, int], stride: int | None) -> Bool[np.ndarray, "h w"]:
    """Return a mask of patches as pixels of a picture of `size` (width, height).

    stride: px of a patch, for a grid that begins at the upper left and leaves the rest of the picture out or reaches beyond it;
    None: the grid covers the picture, and every pixel takes its nearest patch as `interpolate(mode="nearest")` does.
    """
    width, height = size
    if stride is None:
        return F.interpolate(torch.from_numpy(mask)[None, None].float(), (height, width), mode="nearest")[0, 0].numpy() > 0
    pixels = np.zeros((height, width), bool)
    large = mask.repeat(stride, 0).repeat(stride, 1)[:height, :width]
    pixels[: large.shape[0], : large.shape[1]] = large
    return pixels


def whole_picture(width: int, height: int) -> Box:
    """Return the box of a whole picture: what a method finds that finds everything."""
    return 0.0, 0.0, float(width), float(height)


def centre_box(width: int, height: int) -> Box:
    """Return the box in the middle that has half of the area and the shape of the picture."""
    side = 0.5**0.5
    left, top = width * (1 - side) / 2, height * (1 - side) / 2
    return left, top, width - left, height - top


def box_mask(box: Box, width: int, height: int) -> Bool[np.ndarray, "h w"]:
    """Return the pixels whose centre lies in a box."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    return ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))
