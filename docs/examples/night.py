"""Streets at night, in two classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from densebench.datasets.dataset import Dataset, Item, files_in


@dataclass(frozen=True, kw_only=True)
class Night(Dataset):
    """DATA/night/SPLIT/NAME.jpg with a label map NAME.png beside it: 0 road, 1 everything else, 255 unlabelled."""

    name: str = "night"
    title: str = "Streets at night"
    classes: tuple[str, ...] = ("road", "everything else")
    mapping: str = "night-2-v1"  # raise it when the ids mean something else
    image_size_hint: int = 128

    def list_items(self, split: str) -> Iterator[Item]:
        for image in files_in(self.root / "night" / split, "*.jpg", self.remedy):
            yield Item(image.stem, image, image.with_suffix(".png"))
