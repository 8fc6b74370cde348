"""Class means that label new images: every patch takes the class whose mean feature points most nearly the same way.

Measured: mIoU. From: no paper, it is the smallest protocol that labels images. Numbers to reach: none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.evaluation.labelling import At, Labeller, Learned, counted
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.option_groups import Supervised
from densebench.evaluation.protocol import Run
from densebench.evaluation.whole_images import extraction_of, features_of, truth_map
from densebench.features.extract import Features
from densebench.features.views import View
from densebench.numerics.class_scores import best_classes
from densebench.options import setting
from densebench.results.score import Point, Score

WHOLE: Point = (("share", 1),)


@dataclass(frozen=True)
class ClassMeans(Supervised, Labeller):
    """`Supervised` brings the options that every protocol with labels has; `learn` is what labelling needs beside `run`."""

    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"plain": {}}

    image_size: int = setting(128, "side to which images are resized, px; a multiple of the stride", minimum=16)

    def points(self, dataset: Dataset) -> list[Point]:
        """Return the one point that is scored."""
        return [WHOLE]

    def learn(self, backbone: Backbone, dataset: Dataset, train: Sequence[Item]) -> LearnedMeans:
        """Return the mean feature of each class over the labelled patches of all images."""
        space = LabelSpace(dataset, "drop", self.other_class)
        view = View(backbone.multiple, self.image_size)
        sums = torch.zeros(space.classes, backbone.dim)
        features = features_of(self, backbone, dataset, train, view)
        for item in train:
            grid = F.normalize(features[item].float(), dim=-1)  # [gh gw d]
            label = truth_map(space, view, item, None, "nearest")[None, None].float()
            labels = F.interpolate(label, grid.shape[:2], mode="nearest-exact")[0, 0].long()
            sums.index_add_(0, labels[labels < space.classes], grid[labels < space.classes])
        extraction = partial(extraction_of, self, backbone, view=view)
        return LearnedMeans(space, space.names, view, extraction, self.extracted, {}, F.normalize(sums, dim=1))

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Score what `learn` has learned, by the pixels of its own label maps."""
        if WHOLE in run.known:
            return
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        learned = self.learn(backbone, dataset, train)
        counts = counted(learned, val)
        names = [item.name for item in val]
        scores = counts.scores(names, 0, learned.names, self.absent, WHOLE, {})  # type: ignore[arg-type]
        yield from sorted(scores, key=lambda score: (score.metric, score.variant) == ("miou", "identity"))  # the headline last


@dataclass(frozen=True)
class LearnedMeans(Learned):
    """means: the mean feature of each class, of length one."""

    means: Float[Tensor, "c d"]

    def label_maps(
        self, images: Dataset, items: Sequence[Item], at: At = "image", features: Features | None = None
    ) -> Iterator[tuple[Item, UInt8[Tensor, "h w"]]]:
        """Yield each image with its label map: of the image's own size, or of the view's, at which it is scored."""
        grids = self.features(images, items) if features is None else features
        for item in items:
            width, height = images.image_size(item)
            if at == "scored":
                height, width = self.view.shape(width, height)
            cosines = F.normalize(grids[item].float(), dim=-1) @ self.means.T
            yield item, best_classes(cosines.permute(2, 0, 1), height, width)

    def truth(self, item: Item) -> UInt8[Tensor, "h w"]:
        """Return the label map to compare one at "scored" with."""
        return truth_map(self.space, self.view, item, None, "nearest")
