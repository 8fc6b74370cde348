"""Labelling of new images: what a protocol has learned from labelled ones gives a label map for each.

A protocol that can do so derives from `Labeller` beside its group of options. `run` and `learn` share their code, so that the
label maps at the resolution that is scored ("scored") are those whose pixels a record counts, bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import UInt8
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.evaluation.counts import Counts
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.protocol import Evaluator
from densebench.features.extract import Extraction, Features
from densebench.features.views import View
from densebench.numerics.segmentation import confusion_matrix

At = Literal["image", "scored"]
"""The size of a label map: that of the image's file, or the one at which the protocol's settings score."""


@dataclass(frozen=True)
class Learned(ABC):
    """What a protocol has learned from the labels of some images of a data set, by the features of one backbone.

    space: the classes that can be predicted, of the data set that was learned from; a label map holds their indices.
    names: the names of all that is counted: the classes, and where a setting lets void win, "void" as the last.
    view: how an image is resized before it goes through the backbone.
    extraction: returns what is extracted of the images of any data set. extracted: returns its features.
    details: what was chosen while learning, as in the details of a record's scores.
    """

    space: LabelSpace
    names: Sequence[str]
    view: View
    extraction: Callable[[Dataset, Sequence[Item]], Extraction]
    extracted: Callable[[Extraction], Features]
    details: dict[str, Any]

    def features(self, images: Dataset, items: Sequence[Item]) -> Features:
        """Return the features of images, from the cache or the memory in use where it has them."""
        return self.extracted(self.extraction(images, items))

    @abstractmethod
    def label_maps(
        self, images: Dataset, items: Sequence[Item], at: At = "image", features: Features | None = None
    ) -> Iterator[tuple[Item, UInt8[Tensor, "h w"]]]:
        """Yield each image with its label map, on the CPU, in order.

        images: the data set of the items, perhaps another one than that which was learned from; no label is read. features: those
        that `features` returned for the items, or None. At "image" scores of classes are upsampled bilinearly to the size of the
        image, void cannot win, and the lowest class wins a tie. Raises UserError naming an image that cannot be read.
        """

    @abstractmethod
    def truth(self, item: Item) -> UInt8[Tensor, "h w"]:
        """Return the label map of an image to compare one at "scored" with, from the data set that was learned from."""


class Labeller(Evaluator):
    """A protocol that learns from labelled images and labels others."""

    labels_images: ClassVar[bool] = True
    """How the catalogue knows it without an import."""

    @abstractmethod
    def learn(self, backbone: Backbone, dataset: Dataset, train: Sequence[Item]) -> Learned:
        """Learn from all labelled patches of `train`, which are items of `dataset`; splits, fractions and seeds are ignored.

        Raises UserError where a label map is wrong, or where there is too little to learn from.
        """


def counted(learned: Learned, items: Sequence[Item]) -> Counts:
    """Return the pixels of labelled images by truth and prediction, as `run` counts them where it has learned the same.

    items: of the data set that was learned from. `Counts.scores` and `Counts.tallies` make scores of them, with `learned.names`.
    """
    counts = Counts(1, len(learned.names))
    for item, labels in learned.label_maps(learned.space.dataset, items, "scored"):
        counts.add(item.name, confusion_matrix(labels, learned.truth(item), len(learned.names))[None])
    return counts
