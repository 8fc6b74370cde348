"""Noise: Gaussian, shot and impulse noise, of each channel by itself."""

from __future__ import annotations

import numpy as np

from densebench.numerics.corruptions.pixels import Picture, intensities, picture_of

GAUSSIAN = (0.08, 0.12, 0.18, 0.26, 0.38)
"""The standard deviation, of intensities of 0..1."""
SHOT = (60, 25, 12, 5, 3)
"""The photons of a white pixel."""
IMPULSE = (0.03, 0.06, 0.09, 0.17, 0.27)
"""The share of values that are replaced."""


def gaussian_noise(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture with normal noise."""
    values = intensities(picture)
    return picture_of(values + generator.normal(size=values.shape, scale=GAUSSIAN[level - 1]))


def shot_noise(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture as counts of photons: Poisson numbers whose mean is the intensity times that of white."""
    photons = SHOT[level - 1]
    return picture_of(generator.poisson(intensities(picture) * photons) / float(photons))


def impulse_noise(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture with salt and pepper: a share of all values is 0 or 255, either with probability 1/2."""
    replaced = generator.random(picture.shape) <= IMPULSE[level - 1]
    white = generator.random(picture.shape) <= 0.5
    return np.where(replaced, np.where(white, np.uint8(255), np.uint8(0)), picture)
