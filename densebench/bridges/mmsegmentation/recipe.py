"""What is trained on what: the settings of a run in MMSegmentation's terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class Recipe:
    """head: linear (FCNHead without convolutions), batchnorm (the same after dropout and batch norm) or segmenter.

    trained: the backbone is fine-tuned; frozen otherwise. crop, scale: sides of training crops and of the short side that images
    are resized to, px. stride: of the sliding window. eta_min: the last learning rate as a share of the first (poly). warmup:
    the share of the iterations over which a cosine schedule rises. mean, std: of the backbone's colours on 0..1. drop_path:
    stochastic depth of the last block while training. black: small images are padded with black before normalisation, not after
    it with 0. long: what the long side of images is kept to, px (none: four times scale). pad: the side that crops are padded to,
    window: that of sliding windows (none: the crop).
    """

    head: Literal["linear", "batchnorm", "segmenter"]
    trained: bool
    crop: int
    scale: int
    stride: int
    photometric: bool
    optimiser: Literal["adam", "adamw", "sgd"]
    weight_decay: float
    schedule: Literal["poly", "cosine"]
    eta_min: float
    warmup: float
    iterations: int
    batch: int
    validations: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    drop_path: float
    black: bool
    seed: int
    precision: str
    long: int | None = None
    pad: int | None = None
    window: int | None = None
