"""Nearest class mean: every patch takes the class whose mean feature points most nearly the same way.

No paper has it; it is the smallest protocol that runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.evaluation.protocol import Evaluator, Run
from densebench.options import setting
from densebench.results.score import Point, Score


@dataclass(frozen=True)
class NearestMean(Evaluator):
    """Options of the protocol."""

    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"plain": {}, "large": {"image_size": 224}}

    image_size: int = setting(128, "side to which images are resized, px", minimum=16)

    def headline(self) -> dict[str, str]:
        return {"metric": "accuracy", "variant": "patches"}

    def splits(self, dataset: Dataset) -> tuple[str, str]:
        return dataset.train_split, dataset.val_split

    def points(self, dataset: Dataset) -> list[Point]:
        return [()]  # one number, and no axis

    def resolve(self, dataset: Dataset) -> NearestMean:
        return self

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        sums = torch.zeros(len(dataset.classes), backbone.dim)
        for item in train:
            features, labels = self.patches(backbone, dataset, item)
            sums.index_add_(0, labels, features)
        means = F.normalize(sums, dim=1)
        right = total = 0
        for item in val:
            features, labels = self.patches(backbone, dataset, item)
            right += int(((features @ means.T).argmax(1) == labels).sum())
            total += len(labels)
        yield Score("accuracy", "patches", 100 * right / total, direction="higher")

    def patches(self, backbone: Backbone, dataset: Dataset, item: Item) -> tuple[Tensor, Tensor]:
        """Return the features of labelled patches, of length 1, and the classes under their centres."""
        size = self.image_size
        pixels = np.asarray(dataset.image(item).resize((size, size))) / 255
        pixels = (pixels - backbone.mean) / backbone.std
        image = torch.from_numpy(pixels).float().permute(2, 0, 1)
        with torch.inference_mode():
            grid = backbone(image[None])[0]  # [d gh gw]
        label = torch.from_numpy(dataset.label(item))[None, None].float()
        labels = F.interpolate(label, grid.shape[1:], mode="nearest-exact")[0, 0].long().flatten()
        counted = labels != dataset.ignore_index
        return F.normalize(grid.flatten(1).T, dim=1)[counted], labels[counted]
