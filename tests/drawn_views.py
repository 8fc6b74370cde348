"""Views for tests of objectives: noise for pixels, and boxes as the engine draws them."""

from __future__ import annotations

import numpy as np
import torch

from densebench.training.augmentation import AugmentParams, draw_views
from densebench.training.objective import Views


def drawn_views(chosen, images, seed=0):
    """The views that a method asks for, of images of 100 x 80 px."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    tables = np.stack([draw_views(chosen.views(), 100, 80, rng) for _ in range(images)])
    pixels = tuple(torch.randn(images, 3, view.size, view.size, generator=generator) for view in chosen.views())
    draws = tuple(AugmentParams(torch.from_numpy(tables[:, number].copy())) for number in range(len(pixels)))
    return Views(pixels, draws, torch.arange(images))
