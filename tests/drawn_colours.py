"""Draws of views with chosen colours, and views drawn many times."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from densebench.torchvision_ops import make_importable
from densebench.training.augmentation import (
    AugmentParams,
    brightness,
    contrast,
    hue,
    saturation,
)

make_importable()
from torchvision.transforms import functional as TF  # noqa: E402

ORDERS = list(itertools.permutations(range(4)))


OPERATIONS = [
    (brightness, TF.adjust_brightness, (0.6, 1.0, 1.4)),
    (contrast, TF.adjust_contrast, (0.6, 1.0, 1.4)),
    (saturation, TF.adjust_saturation, (0.8, 1.0, 1.2)),
    (hue, TF.adjust_hue, (-0.1, 0.0, 0.03, 0.1)),
]


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def row(box=(0, 0, 1, 1), flip=0, jitter=0, strengths=(1, 1, 1, 0), order=(0, 1, 2, 3), grey=0, sigma=0.0, solarise=0):
    """The numbers of one view, in the order of the table's columns."""
    return [*box, flip, jitter, *strengths, *order, grey, sigma, solarise]


def draws_of(*rows):
    return AugmentParams(torch.tensor(rows, dtype=torch.float32))


def images(count, seed=0):
    """Random pixels, and among them flat grey, black, white and pure colours, where hue and saturation are not defined."""
    x = random(count, 3, 10, 12, seed=seed)
    x[:, :, 0, 0], x[:, :, 0, 1], x[:, :, 0, 2] = 0, 1, 0.3
    x[:, :, 1, :6] = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]]).float()
    return x


def crowd():
    """24 images: every order once, and every combination of the later operations."""
    generator, rows = np.random.default_rng(0), []
    for i, order in enumerate(ORDERS):
        strengths = (*generator.uniform(0.6, 1.4, 2), generator.uniform(0.8, 1.2), generator.uniform(-0.1, 0.1))
        sigma = generator.uniform(0.3, 2) if i % 3 == 0 else 0.0
        rows.append(
            row(jitter=int(i % 5 > 0), strengths=strengths, order=order, grey=int(i % 4 == 1), sigma=sigma, solarise=i % 2)
        )
    return images(24), rows
