"""Cityscapes, fine annotations, the 19 classes of its benchmark.

Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016. 2975 train and 500 val images.
Label files hold the 34 ids 0 to 33; those outside the benchmark are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from densebench.datasets.dataset import Dataset, Item, Source, files_in
from densebench.datasets.label_maps import IGNORED, INVALID

CLASSES = (
    "road|sidewalk|building|wall|fence|pole|traffic light|traffic sign|vegetation|terrain|sky|person|rider|car|truck|bus|"
    "train|motorcycle|bicycle"
)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of the classes, in their order


@dataclass(frozen=True, kw_only=True)
class Cityscapes(Dataset):
    """cityscapes/leftImg8bit/<split>/<city>/*_leftImg8bit.png with gtFine/<split>/<city>/*_gtFine_labelIds.png."""

    name: str = "cityscapes"
    title: str = "Cityscapes (19 classes)"
    classes: tuple[str, ...] = tuple(CLASSES.split("|"))
    mapping: str = "cityscapes-19-v1"
    licence: str = "non-commercial, registration needed"

    official_counts: ClassVar[dict[str, int]] = {"train": 2975, "val": 500}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://www.cityscapes-dataset.com/downloads/",
            gives=("cityscapes/leftImg8bit", "cityscapes/gtFine"),
            by_hand=(
                "register at the address above, fetch leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, and unpack "
                "both in cityscapes/, so that cityscapes/leftImg8bit/train and cityscapes/gtFine/train exist"
            ),
        ),
    )

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the images of all cities of the split, sorted by city and name."""
        folder = self.root / "cityscapes"
        for image in files_in(folder / "leftImg8bit" / split, "*/*_leftImg8bit.png", self.remedy):
            name = image.name.removesuffix("_leftImg8bit.png")
            yield Item(name, image, folder / "gtFine" / split / image.parent.name / f"{name}_gtFine_labelIds.png")

    def label_table(self) -> np.ndarray:
        """Return the table from the official ids to the benchmark's train ids."""
        table = np.full(256, INVALID, np.int16)
        table[:34] = IGNORED
        table[list(LABEL_IDS)] = np.arange(len(LABEL_IDS))
        return table
