"""What is trained on what: the images, the options of a protocol that the bridge reads, and what follows from them."""

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
    """The options that decide a run. The protocol declares them and says what each means."""

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
    """A protocol's options, and what it decides besides for one backbone and one data set.

    head: linear (FCNHead without convolutions), batchnorm (the same after dropout and batch norm) or segmenter.
    trained: the backbone is fine-tuned; frozen otherwise.
    photometric: training images are recoloured.
    warmup: the share of the iterations over which a cosine schedule rises.
    drop_path: stochastic depth of the backbone's last block while training.
    crop, scale: sides of training crops, and of the short side that images are resized to, px.
    mean, std: of colours on 0..1.
    black: small images are padded with black before normalisation; otherwise with 0 after it.
    long: what the long side of images is limited to, px (None: four times scale).
    pad, window: sides that crops are padded to, and of sliding windows, px (None: the crop).
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
        """The length of the run."""
        assert self.options.iterations is not None, "the protocol's `resolve` fills it in"
        return self.options.iterations

    @property
    def stride(self) -> int:
        """Px from one sliding window to the next."""
        assert self.options.stride is not None, "the protocol's `resolve` fills it in"
        return self.options.stride
