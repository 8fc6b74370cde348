"""What is trained on what: the settings of a detector's run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from densebench.datasets.boxes import Boxed
from densebench.datasets.dataset import Item


@dataclass(frozen=True)
class Data:
    """Images to learn from, each with an object, and images to score. agnostic: all classes are one."""

    dataset: Boxed
    train: Sequence[Item]
    val: Sequence[Item]
    agnostic: bool = False

    @property
    def classes(self) -> int:
        """How many classes the detector tells apart."""
        return 1 if self.agnostic else len(self.dataset.classes)


@dataclass(frozen=True)
class Recipe:
    """masks: Mask R-CNN; boxes alone: Faster R-CNN. pyramid: features of four layers (fpn) or of the last one (simple).
    width: channels of the pyramid and of the heads' convolutions; a quarter of those of the heads' vectors.

    normed: heads of ViTDet, with layer norm; plain ones otherwise. short, long: what the sides of images are resized to, px.
    square: images are padded to a square of the long side, in training and in scoring. batch: images a step, on all processes.
    at_once: images in one forward pass, whose padding and batch norm they share. rate: the learning rate. layer_decay: its factor
    from each block of the backbone to the one below. steps: shares of the run at which it falls to a tenth. warmup: iterations
    over which it rises, a tenth of the run at most. clip: the longest gradient, 0 for any. regions: of an image that the heads
    learn from, a quarter of them with objects at most. detections: of an image, at most.
    """

    masks: bool
    pyramid: Literal["fpn", "simple"]
    width: int
    normed: bool
    augmentation: Literal["detr", "scales", "lsj", "flip"]
    short: int
    long: int
    square: bool
    iterations: int
    batch: int
    at_once: int
    rate: float
    weight_decay: float
    layer_decay: float
    drop_path: float
    steps: tuple[float, ...]
    warmup: int
    clip: float
    regions: int
    detections: int
    seed: int
    precision: str
