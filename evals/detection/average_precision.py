"""Average precision of detections: COCO's, through its own code, and UAVDT's.

- COCO (Lin et al., ECCV 2014): mean over classes and over IoUs of 0.5, 0.55, ..., 0.95 of the precision at 101 recalls, the best
  100 detections of an image; also at IoU 0.5 and 0.75, and of small, medium and large objects (areas below 32^2, below 96^2 and
  above, px of the original image). Groups of objects are neither misses nor false. Computed by pycocotools.
- UAVDT (Du et al., ECCV 2018): all classes are one. Boxes of the truth that reach beyond the image are not clipped. Detections
  that lie wholly inside an ignored region (strictly, on all four sides) are taken away first. Detections of an image, best first,
  take the free object of the greatest IoU if it is at least 0.7; AP is the area under the precision that is made to fall (VOC
  from 2010 on). As the official toolkit does.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from densebench.bridges.torchvision.inference import Found
from densebench.bridges.torchvision.masks import run_lengths
from densebench.datasets.boxes import Objects

METRICS = {
    "ap": (None, "all"), "ap50": (0.5, "all"), "ap75": (0.75, "all"),
    "ap_small": (None, "small"), "ap_medium": (None, "medium"), "ap_large": (None, "large"),
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What is true of an image and what was found in it; height and width in px."""

    truth: Objects
    found: Found
    height: int
    width: int


@dataclass
class CocoPrecision:
    """COCO's evaluator, fed image by image; what it keeps are the objects and the detections. masks: of masks, not of boxes."""

    classes: Sequence[str]
    masks: bool = False
    images: list[dict[str, Any]] = field(default_factory=list)
    truths: list[dict[str, Any]] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)

    def add(self, seen: Seen) -> None:
        """Take in an image. Raises UserError for a broken mask, with the name of its image."""
        number, truth, found = len(self.images) + 1, seen.truth, seen.found
        self.images.append({"id": number, "height": seen.height, "width": seen.width})
        for place in range(len(truth)):
            own = self._entry(number, truth.boxes[place], truth.classes[place])
            own |= {"id": len(self.truths) + 1, "area": float(truth.areas[place]), "iscrowd": int(truth.crowd[place])}
            if self.masks:
                own["segmentation"] = run_lengths(truth.masks[place], seen.height, seen.width, found.image)
            self.truths.append(own)
        for place in range(len(found.scores)):
            own = self._entry(number, found.boxes[place], found.classes[place]) | {"score": float(found.scores[place])}
            if self.masks:
                del own["bbox"]  # pycocotools would take its area for that of the mask
                own["segmentation"] = {"size": [seen.height, seen.width], "counts": found.masks[place].encode()}
            self.detections.append(own)

    def _entry(self, number: int, box: Float[np.ndarray, "4"], kind: Any) -> dict[str, Any]:
        left, top, right, bottom = box.tolist()
        return {"image_id": number, "category_id": int(kind) + 1, "bbox": [left, top, right - left, bottom - top]}

    def values(self) -> dict[str, tuple[float, dict[str, float | None]]]:
        """Each metric in %, and of each class; None for a class, and nothing at all for a metric, without an object."""
        precision, thresholds, areas = self._precision()
        found = {}
        for metric, (iou, size) in METRICS.items():
            chosen = slice(None) if iou is None else [int(np.flatnonzero(np.isclose(thresholds, iou))[0])]
            own = precision[chosen, :, :, areas.index(size), -1]
            by_class = [own[:, :, number] for number in range(own.shape[2])]
            means = [100 * float(one[one > -1].mean()) if (one > -1).any() else None for one in by_class]
            if (own > -1).any():
                found[metric] = 100 * float(own[own > -1].mean()), dict(zip(self.classes, means, strict=True))
        return found

    def _precision(self) -> tuple[Float[np.ndarray, "ious recalls classes areas most"], np.ndarray, list[str]]:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        categories = [{"id": number + 1, "name": name} for number, name in enumerate(self.classes)]
        with contextlib.redirect_stdout(io.StringIO()):  # it talks; stdout is for data
            truth = COCO()
            truth.dataset = {"images": self.images, "annotations": self.truths, "categories": categories, "info": {}}
            truth.createIndex()
            found = truth.loadRes([dict(one) for one in self.detections]) if self.detections else COCO()  # it writes into them
            if not self.detections:
                found.dataset = {**truth.dataset, "annotations": []}
                found.createIndex()
            judge = COCOeval(truth, found, "segm" if self.masks else "bbox")
            judge.evaluate()
            judge.accumulate()
        return judge.eval["precision"], judge.params.iouThrs, list(judge.params.areaRngLbl)


def overlaps(first: Float[np.ndarray, "n 4"], second: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """IoU of boxes (left, top, right, bottom); 0 where both are without an area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inside = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def ignored(boxes: Float[np.ndarray, "n 4"], regions: Float[np.ndarray, "m 4"]) -> Bool[np.ndarray, "n"]:
    """Which boxes lie strictly inside one of the regions."""
    low = (boxes[:, None, :2] > regions[None, :, :2]).all(axis=2)
    high = (boxes[:, None, 2:] < regions[None, :, 2:]).all(axis=2)
    return np.any(low & high, axis=1)


def matched(
    found: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, "n"], truth: Float[np.ndarray, "m 4"], iou: float
) -> Bool[np.ndarray, "n"]:
    """Which detections of an image are right. The best one chooses first, among the objects that are free; of equals the last."""
    right, free = np.zeros(len(found), bool), np.ones(len(truth), bool)
    shared = overlaps(found, truth)
    for place in np.argsort(-scores, kind="stable"):
        own = np.where(free & (shared[place] >= iou), shared[place], -1.0)
        if len(own) and own.max() >= 0:
            chosen = len(own) - 1 - int(own[::-1].argmax())
            right[place], free[chosen] = True, False
    return right


def area_under(right: Bool[np.ndarray, "n"], scores: Float[np.ndarray, "n"], objects: int) -> float:
    """The area under the precision as a function of recall, where precision is the best of any recall as high: on 0..1."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((right[order] * falling).sum() / max(1, objects))


def agnostic_precision(images: Iterable[Seen], iou: float) -> tuple[float, int, int]:
    """UAVDT's AP in %, the objects, and the detections that were taken away because they lie in ignored regions."""
    right: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    objects = gone = 0
    for seen in images:
        truth, found = seen.truth, seen.found
        away = ignored(found.boxes, truth.boxes[truth.crowd].astype(float))
        boxes, own = found.boxes[~away], found.scores[~away]
        right.append(matched(boxes, own, truth.boxes[~truth.crowd].astype(float), iou))
        scores.append(own)
        objects += int((~truth.crowd).sum())
        gone += int(away.sum())
    if not right:
        return 0.0, 0, 0
    return 100 * area_under(np.concatenate(right), np.concatenate(scores), objects), objects, gone
