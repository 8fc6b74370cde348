"""The scenes again, with the boxes and masks of their objects as labels: for a first run of what takes boxes, and for rehearsals.

The images are those of `scenes`; nothing is downloaded. A box and a mask cover what is seen of an object. Objects that others
hide are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.dataset import Item
from densebench.datasets.scenes import COUNTS, SIZE, THINGS, VERSION, SceneImages, instances, key_of


@dataclass(frozen=True, kw_only=True)
class ScenesBoxes(SceneImages, Boxed):
    """256 train and 64 val images, generated."""

    name: str = "scenes-boxes"
    title: str = "Scenes with boxes and masks, generated (5 classes)"
    classes: tuple[str, ...] = THINGS
    mapping: str = f"scenes-boxes-v{VERSION}"
    image_size_hint: int = SIZE
    licence: str = "generated, no restrictions"

    has_masks: ClassVar[bool] = True
    official_counts: ClassVar[dict[str, int]] = COUNTS

    def objects(self, item: Item) -> Objects:
        """Return the objects of which anything is seen, in the order in which they were drawn."""
        shown, kinds = instances(*key_of(item))
        masks = [(shown == number, kind) for number, kind in enumerate(kinds, 1) if (shown == number).any()]
        boxes = np.array([_box(mask) for mask, _ in masks], np.float64).reshape(-1, 4)
        return Objects(
            boxes,
            np.array([kind for _, kind in masks], np.int64),
            np.zeros(len(masks), bool),
            np.array([mask.sum() for mask, _ in masks], np.float64),
            tuple({"size": [SIZE, SIZE], "counts": _runs(mask)} for mask, _ in masks),
        )

    def annotation(self, item: Item) -> Any:
        """Return the version of the generator and the name of the item, which decide the objects."""
        return [VERSION, item.name]


def _box(mask: np.ndarray) -> list[int]:
    """Return left, top, right and bottom of the pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _runs(mask: np.ndarray) -> list[int]:
    """Return the lengths of runs of 0 and 1 by turns, down the columns, as COCO writes a mask; the first run is of 0."""
    pixels = mask.T.ravel()
    edges = np.flatnonzero(np.diff(pixels, prepend=False)).tolist()
    return np.diff([0, *edges, pixels.size]).tolist()
