"""Discs on a background, in two classes. They are drawn, so that the file runs as it is; the end says how to read files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from densebench.datasets.dataset import Dataset, Item
from densebench.files.atomic import digest


@dataclass(frozen=True, kw_only=True)
class Mine(Dataset):
    """40 images to learn from and 20 to score, 128 x 128 px."""

    name: str = "mine"
    title: str = "Discs on a background (2 classes)"
    classes: tuple[str, ...] = ("background", "disc")  # ids 0 and 1; 255 is unlabelled
    mapping: str = "mine-v1"  # raise it when the ids mean something else
    image_size_hint: int = 128

    def list_items(self, split: str) -> Iterable[Item]:
        """Return the images of a split, always in the same order."""
        return [Item(f"{split}-{number:02}", None, None) for number in range({"train": 40, "val": 20}[split])]

    def image(self, item: Item) -> Image.Image:
        """Return the image, RGB: its disc is redder than its background, under much grain."""
        grain = np.random.default_rng([*item.name.encode()]).integers(0, 160, (128, 128, 3))
        grain[..., 0] += 60 * (self.label(item) == 1)
        return Image.fromarray(grain.astype(np.uint8))

    def label(self, item: Item) -> np.ndarray:
        """Return the class of each pixel, uint8 [h, w]."""
        x, y, radius = np.random.default_rng([1, *item.name.encode()]).integers((40, 40, 20), (88, 88, 40))
        rows, columns = np.ogrid[:128, :128]
        return ((columns - x) ** 2 + (rows - y) ** 2 < radius**2).astype(np.uint8)

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return width and height."""
        return 128, 128

    def image_digest(self, item: Item) -> str:
        """Return what tells the image from every other."""
        return digest(["image", self.mapping, item.name])

    def label_digest(self, item: Item) -> str:
        """Return what tells the label from every other."""
        return digest(["label", self.mapping, item.name])


# Images and label maps in files: remove all methods but list_items, and name the two files of each item there. The base class
# reads them, checks them and makes their digests; `self.root` is the folder of --data-root.
#
#     for image in files_in(self.root / "mine" / split, "*.jpg", self.remedy):  # of densebench.datasets.dataset
#         yield Item(image.stem, image, image.with_suffix(".png"))
#
# Other labels have other bases: Boxed (densebench.datasets.boxes), Videos (.videos) and KeypointPairs (.keypoints).
