"""Nearest class mean: every patch takes the class whose mean feature points most nearly the same way.

Measured: the share of right patches. From: no paper, it is the smallest protocol that runs. Numbers to reach: none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.whole_images import features_of
from densebench.features.views import View
from densebench.options import axis, runtime, setting
from densebench.results.score import Point, Score


@dataclass(frozen=True)
class Mine(Evaluator):
    """A setting changes what the number means, an axis is swept, a runtime option must not change any number."""

    version: ClassVar[int] = 1  # raise it when the same settings give another number
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"plain": {}, "large": {"image_size": 224}}  # the first is the default

    image_size: int = setting(128, "side to which images are resized, px; a multiple of the stride", minimum=16)
    shares: tuple[int, ...] = axis((1,), "n means every n-th training image", minimum=1)
    chunk: int = runtime(4096, "patches that are compared with the means at once", minimum=1)

    def headline(self) -> dict[str, str]:
        """Return the metric and the variant that tables show."""
        return {"metric": "accuracy", "variant": "patches"}

    def splits(self, dataset: Dataset) -> tuple[str, str]:
        """Return the split that is learned from and the one that is scored."""
        return dataset.train_split, dataset.val_split

    def points(self, dataset: Dataset) -> list[Point]:
        """Return what is scored: a point for each value of the axis."""
        return [(("share", share),) for share in self.shares]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Yield the score of every point that an earlier run has not scored."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        for share in (share for share in self.shares if (("share", share),) not in run.known):
            sums = torch.zeros(len(dataset.classes), backbone.dim)
            for features, labels in self.patches(backbone, dataset, train[::share]):
                sums.index_add_(0, labels, features)
            right = total = 0
            for features, labels in self.patches(backbone, dataset, val):
                guesses = [(part @ F.normalize(sums, dim=1).T).argmax(1) for part in features.split(self.chunk)]
                right, total = right + int((torch.cat(guesses) == labels).sum()), total + len(labels)
            yield Score("accuracy", "patches", 100 * right / total, "%", {"share": share}, direction="higher")

    def patches(self, backbone: Backbone, dataset: Dataset, items: Sequence[Item]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the features of each image's labelled patches, of length 1, and the classes under their centres."""
        view = View(backbone.multiple, self.image_size)
        cached = features_of(self, backbone, dataset, items, view)
        for item in items:
            grid = cached[item].float()  # [gh gw d]
            label = view.label(dataset.label(item), dataset.image_digest(item))[None, None].float()
            labels = F.interpolate(label, grid.shape[:2], mode="nearest-exact")[0, 0].long()
            counted = labels != dataset.ignore_index
            yield F.normalize(grid[counted], dim=1), labels[counted]
