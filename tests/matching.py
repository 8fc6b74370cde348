"""The smallest protocol that takes pairs: each keypoint goes to the patch of the target that looks most like its own patch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset
from densebench.datasets.keypoints import KeypointPairs
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.whole_images import features_of
from densebench.features.views import View
from densebench.options import setting
from densebench.results.score import Point, Score


@dataclass(frozen=True)
class Matching(Evaluator):
    """PCK at 0.1 of the longer side of the box; images are squares."""

    version: ClassVar[int] = 1
    takes: ClassVar[str] = "keypoint pairs"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"plain": {}}

    image_size: int = setting(128, "side to which images are resized, px; a multiple of the stride", minimum=16)

    def headline(self) -> dict[str, str]:
        return {"metric": "pck", "variant": "points"}

    def splits(self, dataset: Dataset) -> tuple[str, str]:
        return dataset.val_split, dataset.val_split

    def points(self, dataset: Dataset) -> list[Point]:
        return [()]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        assert isinstance(dataset, KeypointPairs)
        split = dataset.val_split
        cached = features_of(self, backbone, dataset, dataset.part(split, run.limit), View(backbone.stride, self.image_size))
        right = total = 0
        for pair in [] if () in run.known else dataset.pairs(split, run.limit):
            source, target = (F.normalize(cached[item].float(), dim=-1) for item in (pair.source, pair.target))
            rows, columns = len(source), source.shape[1]
            cells = (pair.source_points / dataset.image_size(pair.source) * [columns, rows]).astype(int)
            found = (source[cells[:, 1], cells[:, 0]] @ target.flatten(0, 1).T).argmax(1).numpy()
            places = np.stack([found % columns + 0.5, found // columns + 0.5], axis=1)
            away = np.linalg.norm(places / [columns, rows] * dataset.image_size(pair.target) - pair.target_points, axis=1)
            left, top, right_side, bottom = pair.target_box or (0, 0, *dataset.image_size(pair.target))
            right, total = right + int((away <= 0.1 * max(right_side - left, bottom - top)).sum()), total + len(away)
        if total:
            yield Score("pck", "points", 100 * right / total, "%", direction="higher")
