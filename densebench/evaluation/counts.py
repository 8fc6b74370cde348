"""Counts of pixels by (image, truth, prediction) while a protocol runs, kept sparse, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from densebench.errors import UserError
from densebench.numerics import segmentation as metrics
from densebench.numerics.bootstrap import bootstrap_mean_iou, interval
from densebench.results.score import Point, Score


class Counts:
    """For several subsets at once: how many pixels of each image have which truth and which prediction."""

    def __init__(self, subsets: int, classes: int) -> None:
        self.subsets, self.classes = subsets, classes
        self._pairs: dict[str, Int[Tensor, "2 nonzero"]] = {}

    def __contains__(self, image: str) -> bool:
        return image in self._pairs

    def add(self, image: str, confusions: Int[Tensor, "subsets c c"]) -> Int[Tensor, "2 nonzero"]:
        """Add the confusion matrices of one image; return their nonzero entries as flat indices and counts."""
        flat = confusions.flatten().cpu()
        index = flat.nonzero()[:, 0]
        return self.restore(image, torch.stack([index, flat[index]]))

    def restore(self, image: str, pairs: Int[Tensor, "2 nonzero"]) -> Int[Tensor, "2 nonzero"]:
        """Add the entries of one image as `add` returned them in an earlier run; return them."""
        self._pairs[image] = pairs
        return pairs

    def confusion(self, images: Iterable[str]) -> Int[Tensor, "subsets c c"]:
        """Return the confusion matrices of the whole set."""
        total = torch.zeros(self.subsets * self.classes**2, dtype=torch.int64)
        for image in images:
            index, counts = self._pairs[image]
            total.index_add_(0, index, counts)
        return total.view(self.subsets, self.classes, self.classes)

    def tallies(self, images: Sequence[str], subset: int, renamed: Int[Tensor, "c"]) -> Int[Tensor, "n 3 c"]:
        """Return, per image and class, pixels that agree, of the truth and of the prediction, with predicted classes renamed."""
        size = self.classes**2
        result = torch.zeros(len(images), 3, self.classes, dtype=torch.int64)
        for row, image in zip(result, images, strict=True):
            index, counts = self._pairs[image]
            inside = (index >= subset * size) & (index < (subset + 1) * size)
            pair, count = index[inside] - subset * size, counts[inside]
            truth, prediction = pair // self.classes, renamed[pair % self.classes]
            agree = truth == prediction
            row[0].index_add_(0, truth[agree], count[agree])
            row[1].index_add_(0, truth, count)
            row[2].index_add_(0, prediction, count)
        return result

    def scores(
        self,
        images: Sequence[str],
        subset: int,
        names: Sequence[str],
        absent: Literal["skip", "zero"],
        point: Point,
        details: dict[str, Any],
    ) -> list[Score]:
        """Return mIoU by identity and after Hungarian renaming, each with its bootstrap over images, and the pixel accuracy.

        Raises UserError where no pixel has a class.
        """
        confusion = self.confusion(images)[subset]
        if not confusion.any():
            raise UserError(f"no pixel of the {len(images)} images that are scored has a class; check their label maps")
        scores = []
        for variant in ("identity", "hungarian"):
            renamed = metrics.hungarian(confusion) if variant == "hungarian" else torch.arange(self.classes)
            scores.append(miou_score(self.tallies(images, subset, renamed), variant, names, absent, point, details))
        accuracy = round(100 * metrics.pixel_accuracy(confusion), 4)
        return [*scores, Score("pixel_accuracy", "identity", accuracy, axes=dict(point), details=details, direction="higher")]


def miou_score(
    tally: Int[Tensor, "n 3 c"],
    variant: str,
    names: Sequence[str],
    absent: Literal["skip", "zero"],
    point: Point,
    details: dict[str, Any],
) -> Score:
    """Return mIoU in % of n images together, with its bootstrap over images. `tally` is as of `segmentation.tallies`."""
    ious = 100 * metrics.iou(tally.sum(0))
    resampled = 100 * bootstrap_mean_iou(tally, absent)
    low, high = interval(resampled)
    return Score(
        "miou",
        variant,
        round(float(metrics.mean_iou(ious, absent)), 4),
        axes=dict(point),
        ci95=(round(low, 4), round(high, 4)),
        per_class={n: None if v != v else round(v, 4) for n, v in zip(names, ious.tolist(), strict=True)},
        bootstrap=tuple(resampled.tolist()),
        details=details,
        direction="higher",
    )
