"""Data sets whose labels are objects in boxes, with or without masks, rather than a class for every pixel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.files.atomic import digest


def _unmarked() -> Bool[np.ndarray, "0"]:
    return np.zeros(0, bool)


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    boxes: left, top, right, bottom in px of the original image, left < right and top < bottom (but for `Boxed.truth`).
    classes: indices into `Dataset.classes`. crowd: a group (COCO) or a region to be ignored (UAVDT): never learned from, never a
    miss. areas: in square px, of the mask where there is one. masks: COCO's run lengths or polygons, one an object, or
    none at all. difficult, truncated: as Pascal VOC marks objects that are hard to recognise or reach beyond the image; none is
    where nothing is said. They are objects like others unless a protocol leaves them out.
    """

    boxes: Float[np.ndarray, "n 4"]
    classes: Int[np.ndarray, "n"]
    crowd: Bool[np.ndarray, "n"]
    areas: Float[np.ndarray, "n"]
    masks: tuple[Any, ...] = ()
    difficult: Bool[np.ndarray, "n"] = field(default_factory=_unmarked)
    truncated: Bool[np.ndarray, "n"] = field(default_factory=_unmarked)

    def __post_init__(self) -> None:
        for name in ("difficult", "truncated"):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.zeros(len(self.boxes), bool))

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, kw_only=True)
class Boxed(Dataset):
    """Base of data sets with boxes; a subclass gives `list_items`, `objects` and `annotation`.

    The label file of an item is the annotation of its image alone, or None where there is one file for all.
    """

    kind: ClassVar[str] = "boxes"
    has_masks: ClassVar[bool] = False

    def objects(self, item: Item) -> Objects:
        """Return the objects of an image, perhaps none. Raises UserError naming the file and what is wrong in it."""
        raise NotImplementedError

    def truth(self, item: Item) -> Objects:
        """Return the objects that detections in an image are scored against; boxes may reach outside the image where the official
        evaluation takes them so. Raises UserError as `objects` does."""
        return self.objects(item)

    def annotation(self, item: Item) -> Any:
        """Return what the files say about an image, as JSON values, for the digest of its labels."""
        raise NotImplementedError

    def label(self, item: Item) -> np.ndarray:
        """Raise UserError: a data set with boxes has no label maps."""
        raise UserError(f"{self.name} has boxes, no label maps; protocols of segmentation need another data set")

    def label_digest(self, item: Item) -> str:
        """Return the identity of what `objects` returns."""
        return digest([self.mapping, self.annotation(item)])

    def read(self, item: Item) -> None:
        """Read an image and its objects."""
        self.image(item)
        self.objects(item)
