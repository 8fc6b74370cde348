"""What the bridge is given: images, the options of a protocol, and the setup for one backbone and data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from jaxtyping import UInt8

from densebench.datasets.dataset import Dataset, Item


@dataclass(frozen=True)
class Data:
    """Images to learn from and images to score, and how label maps are read: classes 0 to C - 1, 255 ignored."""

    dataset: Dataset
    train: Sequence[Item]
    val: Sequence[Item]
    classes: Sequence[str]
    read: Callable[[Item], UInt8[np.ndarray, "h w"]]


class Options(Protocol):
    """The options that the bridge reads. The protocol declares and documents them."""

    @property
    def iterations(self) -> int | None: ...
    @property
    def stride(self) -> int | None: ...
    @property
    def train_batch(self) -> int: ...
    @property
    def optimiser(self) -> str: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def eta_min(self) -> float: ...
    @property
    def validations(self) -> int: ...
    @property
    def train_seed(self) -> int: ...
    @property
    def precision(self) -> str: ...


@dataclass(frozen=True)
class Setup:
    """A protocol's options, and what else it has decided for one backbone and one data set.

    head: linear (FCNHead without convolutions), batchnorm (the same after dropout and batch norm) or segmenter.
    trained: whether the backbone is fine-tuned; otherwise it is frozen.
    photometric: whether training images are recoloured at random.
    warmup: the share of the iterations over which a cosine schedule rises.
    drop_path: stochastic depth of the backbone's last block while training.
    crop: side of training crops, px. scale: short side to which images are resized, px.
    mean, std: colour statistics, for colours in 0..1.
    black: whether small images are padded with black before normalisation; otherwise with 0 after it.
    long: largest long side of images, px (None: four times scale).
    pad: side to which crops are padded, px. window: side of sliding windows, px (None: the crop, for both).
    """

    options: Options
    head: Literal["linear", "batchnorm", "segmenter"]
    trained: bool
    photometric: bool
    warmup: float
    drop_path: float
    crop: int
    scale: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    black: bool
    long: int | None = None
    pad: int | None = None
    window: int | None = None

    @property
    def iterations(self) -> int:
        """The number of iterations of the run."""
        assert self.options.iterations is not None, "the protocol's `resolve` fills it in"
        return self.options.iterations

    @property
    def stride(self) -> int:
        """The distance from one sliding window to the next, px."""
        assert self.options.stride is not None, "the protocol's `resolve` fills it in"
        return self.options.stride
