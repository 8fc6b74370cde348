"""Views of one image that depend on each other, drawn many times."""

from __future__ import annotations

import math

import numpy as np

from densebench.training.augmentation import ViewSpec, draw_views

TOP, LEFT, HEIGHT, WIDTH, FLIP, JITTER, GREY, SIGMA, SOLARISE = 0, 1, 2, 3, 4, 5, 14, 15, 16


GLOBAL, LOCAL = (0.25, 1.0), (0.05, 0.25)


NECO = [
    ViewSpec(224, GLOBAL, flip=0.0),
    ViewSpec(224, GLOBAL, flip=0.0, meets=(0,), overlap=0.02),
    *[ViewSpec(96, LOCAL, flip=0.0, meets=(0, 1), overlap=0.01)] * 4,
]


SIZES = [(640, 480), (224, 224), (40, 1000), (1000, 40), (64, 48)]


def drawn(recipes, count, width=640, height=480, seed=0):
    generator = np.random.default_rng(seed)
    tables = np.stack([draw_views(recipes, width, height, generator) for _ in range(count)])
    assert tables.shape == (count, len(recipes), 17)
    assert tables.dtype == np.float32
    boxes = tables[:, :, :4]
    assert (boxes == boxes.round()).all()
    assert (boxes[:, :, :2] >= 0).all()
    assert (boxes[:, :, 2:] >= 1).all()
    assert (boxes[:, :, TOP] + boxes[:, :, HEIGHT] <= height).all()
    assert (boxes[:, :, LEFT] + boxes[:, :, WIDTH] <= width).all()
    return tables.astype(np.float64)


def near(flags, probability):
    """Within 4.5 standard errors."""
    return abs(flags.mean() - probability) <= 4.5 * math.sqrt(probability * (1 - probability) / len(flags))
