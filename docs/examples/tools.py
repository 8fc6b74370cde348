"""Pairs of pictures of tools with corresponding keypoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from densebench.datasets.dataset import Item
from densebench.datasets.keypoints import KeypointPairs, Pair


@dataclass(frozen=True, kw_only=True)
class Tools(KeypointPairs):
    """DATA/tools/pairs.json: [[source, target, class, [[x, y], ...], [[x, y], ...]], ...], row i of both lists being one part."""

    name: str = "tools"
    title: str = "Tools, pairs with keypoints"
    classes: tuple[str, ...] = ("hammer", "saw")
    splits: tuple[str, ...] = ("all",)
    train_split: str = "all"
    val_split: str = "all"
    mapping: str = "tools-v1"  # raise it when points mean something else

    def list_pairs(self, split: str) -> Iterator[Pair]:
        folder = self.root / "tools"
        for number, (source, target, category, *both) in enumerate(json.loads((folder / "pairs.json").read_text())):
            first, second = (Item(file.removesuffix(".jpg"), folder / file, None) for file in (source, target))
            points = [np.array(each, np.float64).reshape(-1, 2) for each in both]  # px of the pictures, from the upper left
            yield Pair(f"{number:04}", first, second, category, points[0], points[1], np.arange(len(points[0])))
