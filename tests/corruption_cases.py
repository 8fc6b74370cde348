"""A picture to corrupt, photographs of frost, and a generator that draws what numpy's global functions draw."""

from __future__ import annotations

import numpy as np

HEIGHT, WIDTH = 36, 44


def picture():
    """Slopes, an edge, a black and a white part, and noise: uint8 [36, 44, 3]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([5 * rows + columns, 255 - 5 * columns, 90 + 4 * rows - columns], -1).clip(0, 255)
    pixels += np.random.RandomState(0).randint(-30, 31, pixels.shape)
    pixels[:8, :8], pixels[-8:, -8:], pixels[10:14] = 0, 255, (200, 40, 40)
    return pixels.clip(0, 255).astype(np.uint8)


def photographs():
    """Five photographs that are smaller than the picture, or larger."""
    sizes = ((30, 50), (60, 80), (50, 30), (20, 20), (90, 44))
    return [np.random.RandomState(number).randint(0, 256, (*size, 3)).astype(np.uint8) for number, size in enumerate(sizes)]


class Seeded(np.random.Generator):
    """What a corruption draws, from numpy's older generator: the numbers that the reference gets after np.random.seed."""

    def __init__(self, seed):
        super().__init__(np.random.PCG64(0))
        self.old = np.random.RandomState(seed)

    def normal(self, loc=0.0, scale=1.0, size=None):
        return self.old.normal(loc, scale, size)

    def poisson(self, lam=1.0, size=None):
        return self.old.poisson(lam, size)

    def uniform(self, low=0.0, high=1.0, size=None):
        return self.old.uniform(low, high, size)

    def integers(self, low, high=None, size=None):
        return self.old.randint(low, high, size)

    def random(self, size=None):
        return self.old.random_sample(size)
