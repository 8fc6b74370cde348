"""Weather: snow, frost, fog and brightness."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64

from densebench.numerics.corruptions.blur import smear, zoomed
from densebench.numerics.corruptions.pixels import Photograph, Picture, intensities, picture_of

SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
)
"""Mean and standard deviation of the flakes, their size, the value below which there is none, the radius and the sigma in px of
their motion, and the weight of the picture against a whitened one."""
FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
"""The weights of the picture and of the photograph of frost."""
PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The files of the reference from which one is drawn; it has a frost6.jpg too, which its draw never reaches."""
FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
"""The strength, and the factor by which each finer scale is weaker."""
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""What is added to the value of HSV."""
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def snow(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture whitened, with flakes that fall; their layer and the same turned by 180 degrees are added."""
    mean, deviation, size, threshold, radius, sigma, weight = SNOW[level - 1]
    values = (picture.astype(np.float32)) / np.float32(255.0)
    flakes = generator.normal(size=values.shape[:2], loc=mean, scale=deviation)
    flakes = zoomed(flakes[..., None], size)[..., 0]
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = smear(flakes, radius, sigma, float(generator.uniform(-135, -45)))[: values.shape[0], : values.shape[1]]
    flakes = np.round(flakes * 255).astype(np.uint8) / 255.0
    whitened = np.maximum(values, (values @ GREY)[..., None] * np.float32(1.5) + np.float32(0.5))
    values = np.float32(weight) * values + np.float32(1 - weight) * whitened
    return picture_of(values + (flakes + np.rot90(flakes, 2))[..., None])


def frost(picture: Picture, level: int, generator: np.random.Generator, photographs: Sequence[Photograph]) -> Picture:
    """Return the picture with a random part of one of the photographs (in the order of PHOTOGRAPHS) laid over it."""
    photograph = _covering(photographs[int(generator.integers(len(PHOTOGRAPHS)))], *picture.shape[:2])
    height, width = picture.shape[:2]
    top = int(generator.integers(0, photograph.shape[0] - height))
    left = int(generator.integers(0, photograph.shape[1] - width))
    of_picture, of_frost = FROST[level - 1]
    laid = of_picture * picture + of_frost * photograph[top : top + height, left : left + width]
    return np.clip(laid, 0, 255).astype(np.uint8)


def _covering(photograph: Photograph, height: int, width: int) -> Photograph:
    """Return a photograph scaled bicubically to a tenth more than covers height x width, or to 1.1 of its own size."""
    own = photograph.shape[:2]
    factor = 1.1 * max(1.0, height / own[0], width / own[1])
    size = (math.ceil(own[0] * factor), math.ceil(own[1] * factor))
    values = torch.from_numpy(photograph.astype(np.float32)).permute(2, 0, 1)[None]
    large = F.interpolate(values, size, mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    return large.round().clamp(0, 255).to(torch.uint8).numpy()


def fog(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture behind a fractal fog, scaled so that its brightest value stays where it was at most."""
    strength, decay = FOG[level - 1]
    values = intensities(picture)
    brightest = values.max()
    height, width = picture.shape[:2]
    side = 1 << (max(height, width) - 1).bit_length()
    values += strength * plasma(side, decay, generator)[:height, :width, None]
    return picture_of(values * brightest / (brightest + strength))


def plasma(side: int, decay: float, generator: np.random.Generator) -> Float64[np.ndarray, "side side"]:
    """Return a fractal of 0..1 on a torus by the diamond-square algorithm. side: a power of 2.

    Each finer scale takes the mean of four neighbours plus a uniform number whose range is weaker by `decay` squared.
    """
    heights = np.zeros((side, side))
    step, range_ = side, 100.0

    def wibbled(sums: Float64[np.ndarray, "a b"]) -> Float64[np.ndarray, "a b"]:
        return sums / 4 + range_ * generator.uniform(-range_, range_, sums.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        sums = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = wibbled(sums + np.roll(sums, -1, 1))
        middles = heights[half::step, half::step]
        heights[::step, half::step] = wibbled((middles + np.roll(middles, 1, 0)) + (corners + np.roll(corners, -1, 1)))
        heights[half::step, ::step] = wibbled((middles + np.roll(middles, 1, 1)) + (corners + np.roll(corners, -1, 0)))
        step, range_ = half, range_ / decay
    heights -= heights.min()
    return heights / heights.max()


def brightness(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture with a greater value of HSV, at the same hue and saturation: all channels times one factor."""
    values = intensities(picture)
    value = values.max(-1, keepdims=True)
    shares = np.divide(values, value, out=np.ones_like(values), where=value > 0)  # black becomes grey
    return picture_of(shares * np.clip(value + BRIGHTNESS[level - 1], 0, 1))
