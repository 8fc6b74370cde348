"""Label spaces: which classes a protocol predicts on a data set, what is void, and what the truth is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from densebench.console import progress
from densebench.datasets.dataset import IGNORED, Dataset, Item
from densebench.processes import collected, dealt


class LabelSpace:
    """The classes that can be predicted, and the label maps in these classes that a protocol learns from and is scored on.

    On data sets whose official maps have 0 for "other" (ADE20K, Pascal Context 59), `other_class` says what becomes of it: "off"
    ignores it; "dead" makes it class 0, which can be predicted but is never scored; "class" makes it an ordinary class 0.
    void: "background" makes void pixels of training labels class 0; with "drop" they stay void.
    """

    def __init__(self, dataset: Dataset, void: str, other_class: str) -> None:
        self.dataset, self.void = dataset, void
        self.other = other_class if dataset.reduce_zero_label else "off"
        self.names = dataset.classes if self.other == "off" else ("other", *dataset.classes)

    @property
    def classes(self) -> int:
        """How many classes can be predicted."""
        return len(self.names)

    def read(self, item: Item) -> UInt8[np.ndarray, "h w"]:
        """Return the label map in this space; void is 255."""
        label = self.dataset.label(item)
        return label if self.other == "off" else np.where(label == IGNORED, 0, label + 1).astype(np.uint8)

    def read_memory(self, item: Item) -> UInt8[np.ndarray, "h w"]:
        """Return the label map to learn from, with void as `void` says."""
        label = self.read(item)
        return np.where(label == IGNORED, 0, label).astype(np.uint8) if self.void == "background" else label

    def read_truth(self, item: Item) -> UInt8[np.ndarray, "h w"]:
        """Return the label map to score against; pixels of 255 are not scored."""
        label = self.read(item)
        return np.where(label == 0, IGNORED, label).astype(np.uint8) if self.other == "dead" else label

    def absent(self, shown: Bool[np.ndarray, "classes"]) -> list[str]:
        """Return the names of the classes that are not shown."""
        return [name for name, is_shown in zip(self.names, shown, strict=True) if not is_shown]


def classes_shown(space: LabelSpace, items: Sequence[Item], used: Any = None, label: str = "training labels") -> np.ndarray:
    """Return which classes each image shows: bool [images, classes], False for images that are not used (None: all are).

    Several processes divide the images. Raises UserError naming the file of a label map that is missing, of the wrong size or out
    of range.
    """
    shown = np.zeros((len(items), space.classes), dtype=bool)
    rows = list(range(len(items))) if used is None else np.flatnonzero(used).tolist()
    mine, found = dealt(rows), []
    with progress(label, len(mine)) as bar:
        for row in mine:
            present = np.unique(space.read_truth(items[row]))
            found.append(present[present != IGNORED])
            bar.advance()
    for row, present in zip(rows, collected(found), strict=True):
        shown[row, present] = True
    return shown
