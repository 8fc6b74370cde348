"""What the bridge is given: the images, and the options of a protocol that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from densebench.datasets.boxes import Boxed
from densebench.datasets.dataset import Item


@dataclass(frozen=True)
class Data:
    """Training images, each of which shows an object, and images to score. agnostic: whether all classes count as one."""

    dataset: Boxed
    train: Sequence[Item]
    val: Sequence[Item]
    agnostic: bool = False

    @property
    def classes(self) -> int:
        """The number of classes that the detector distinguishes."""
        return 1 if self.agnostic else len(self.dataset.classes)


class Options(Protocol):
    """The options by which a detector is built, trained and run. The protocol declares and documents them."""

    @property
    def model(self) -> str: ...
    @property
    def pyramid(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> str: ...
    @property
    def augmentation(self) -> str: ...
    @property
    def short_side(self) -> int: ...
    @property
    def longest(self) -> int: ...
    @property
    def iterations(self) -> int | None: ...
    @property
    def epochs(self) -> int: ...
    @property
    def steps(self) -> tuple[float, ...]: ...
    @property
    def warmup(self) -> int: ...
    @property
    def train_batch(self) -> int: ...
    @property
    def at_once(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def layer_decay(self) -> float: ...
    @property
    def drop_path(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def regions(self) -> int: ...
    @property
    def detections(self) -> int: ...
    @property
    def train_seed(self) -> int: ...
    @property
    def precision(self) -> str: ...


def iterations_of(options: Options, images: int) -> int:
    """Return the number of iterations of a run on `images` training images: as given, else that of whole epochs."""
    return options.iterations or options.epochs * -(-images // options.train_batch)
