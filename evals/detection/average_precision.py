"""Average precision of detections: COCO's, through its own code, and UAVDT's.

- COCO (Lin et al., ECCV 2014): mean over classes and over IoUs of 0.5, 0.55, ..., 0.95 of the precision at 101 recalls, for the
  best 100 detections of an image; also at IoU 0.5 and 0.75, and for small, medium and large objects (areas below 32^2, below
  96^2 and above, px of the original image). Groups of objects are neither misses nor false alarms. Computed by pycocotools.
- UAVDT (Du et al., ECCV 2018): all classes are one. Boxes of the truth that reach beyond the image are not clipped. Detections
  that lie wholly inside an ignored region (strictly, on all four sides) are taken away first. Each detection of an image, best
  first, takes the free object of the greatest IoU if that is at least 0.7; AP is the area under the precision made monotonic
  (VOC from 2010 on). As the official toolkit does.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from densebench.bridges.torchvision.inference import Detections
from densebench.bridges.torchvision.masks import run_lengths
from densebench.datasets.boxes import Objects
from densebench.extras import require

METRICS = {
    "ap": (None, "all"), "ap50": (0.5, "all"), "ap75": (0.75, "all"),
    "ap_small": (None, "small"), "ap_medium": (None, "medium"), "ap_large": (None, "large"),
}  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """The objects of an image and the detections in it; height and width in px."""

    truth: Objects
    detections: Detections
    height: int
    width: int


@dataclass
class CocoPrecision:
    """COCO's evaluator, to which images are added one by one. masks: score masks instead of boxes."""

    classes: Sequence[str]
    masks: bool = False
    images: list[dict[str, Any]] = field(default_factory=list)
    truths: list[dict[str, Any]] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image: Scored) -> None:
        """Add an image. Raises UserError for a broken mask, with the name of its image."""
        number, truth, detections = len(self.images) + 1, image.truth, image.detections
        self.images.append({"id": number, "height": image.height, "width": image.width})
        for i in range(len(truth)):
            entry = self._entry(number, truth.boxes[i], truth.classes[i])
            entry |= {"id": len(self.truths) + 1, "area": float(truth.areas[i]), "iscrowd": int(truth.crowd[i])}
            if self.masks:
                entry["segmentation"] = run_lengths(truth.masks[i], image.height, image.width, detections.image)
            self.truths.append(entry)
        for i in range(len(detections.scores)):
            entry = self._entry(number, detections.boxes[i], detections.classes[i]) | {"score": float(detections.scores[i])}
            if self.masks:
                del entry["bbox"]  # else pycocotools would take the area of the box for that of the mask
                entry["segmentation"] = {"size": [image.height, image.width], "counts": detections.masks[i].encode()}
            self.detections.append(entry)

    def _entry(self, number: int, box: Float[np.ndarray, "4"], kind: Any) -> dict[str, Any]:
        left, top, right, bottom = box.tolist()
        return {"image_id": number, "category_id": int(kind) + 1, "bbox": [left, top, right - left, bottom - top]}

    def values(self) -> dict[str, tuple[float, dict[str, float | None]]]:
        """Return each metric in %, overall and by class: None for a class without an object; a metric without one is left out."""
        precision, thresholds, areas = self._precision()
        values = {}
        for metric, (iou, size) in METRICS.items():
            chosen = slice(None) if iou is None else [int(np.flatnonzero(np.isclose(thresholds, iou))[0])]
            table = precision[chosen, :, :, areas.index(size), -1]  # -1 where a class has no object
            by_class = [table[:, :, number] for number in range(table.shape[2])]
            means = [100 * float(part[part > -1].mean()) if (part > -1).any() else None for part in by_class]
            if (table > -1).any():
                values[metric] = 100 * float(table[table > -1].mean()), dict(zip(self.classes, means, strict=True))
        return values

    def _precision(self) -> tuple[Float[np.ndarray, "ious recalls classes areas most"], np.ndarray, list[str]]:
        COCO = require("pycocotools.coco", "COCO's average precision").COCO
        COCOeval = require("pycocotools.cocoeval", "COCO's average precision").COCOeval
        categories = [{"id": number + 1, "name": name} for number, name in enumerate(self.classes)]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints to stdout, which is for results
            truth = COCO()
            truth.dataset = {"images": self.images, "annotations": self.truths, "categories": categories, "info": {}}
            truth.createIndex()
            detected = (
                truth.loadRes([dict(entry) for entry in self.detections]) if self.detections else COCO()
            )  # loadRes changes its entries
            if not self.detections:
                detected.dataset = {**truth.dataset, "annotations": []}
                detected.createIndex()
            evaluator = COCOeval(truth, detected, "segm" if self.masks else "bbox")
            evaluator.evaluate()
            evaluator.accumulate()
        return evaluator.eval["precision"], evaluator.params.iouThrs, list(evaluator.params.areaRngLbl)


def overlaps(first: Float[np.ndarray, "n 4"], second: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Return the IoU of boxes (left, top, right, bottom); 0 where both have no area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inside = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def ignored(boxes: Float[np.ndarray, "n 4"], regions: Float[np.ndarray, "m 4"]) -> Bool[np.ndarray, "n"]:
    """Return which boxes lie strictly inside one of the regions."""
    low = (boxes[:, None, :2] > regions[None, :, :2]).all(axis=2)
    high = (boxes[:, None, 2:] < regions[None, :, 2:]).all(axis=2)
    return np.any(low & high, axis=1)


def matched(
    boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, "n"], truth: Float[np.ndarray, "m 4"], iou: float
) -> Bool[np.ndarray, "n"]:
    """Return which detections of an image are right, with an IoU of at least `iou` with an object that they are matched to.

    Detections are matched in the order of their scores, each to the unmatched object of the greatest IoU (the last one on a tie).
    """
    right, free = np.zeros(len(boxes), bool), np.ones(len(truth), bool)
    ious = overlaps(boxes, truth)
    for row in np.argsort(-scores, kind="stable"):
        eligible = np.where(free & (ious[row] >= iou), ious[row], -1.0)
        if len(eligible) and eligible.max() >= 0:
            chosen = len(eligible) - 1 - int(eligible[::-1].argmax())
            right[row], free[chosen] = True, False
    return right


def area_under(right: Bool[np.ndarray, "n"], scores: Float[np.ndarray, "n"], objects: int) -> float:
    """Return the area under precision over recall, 0..1; each precision is raised to the best at that or a higher recall."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((right[order] * falling).sum() / max(1, objects))


def agnostic_precision(images: Iterable[Scored], iou: float) -> tuple[float, int, int]:
    """Return UAVDT's AP in %, the number of objects, and the number of detections removed because they lie in ignored regions."""
    right: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    objects = gone = 0
    for image in images:
        truth, detections = image.truth, image.detections
        away = ignored(detections.boxes, truth.boxes[truth.crowd].astype(float))
        boxes, rest = detections.boxes[~away], detections.scores[~away]
        right.append(matched(boxes, rest, truth.boxes[~truth.crowd].astype(float), iou))
        scores.append(rest)
        objects += int((~truth.crowd).sum())
        gone += int(away.sum())
    if not right:
        return 0.0, 0, 0
    return 100 * area_under(np.concatenate(right), np.concatenate(scores), objects), objects, gone
