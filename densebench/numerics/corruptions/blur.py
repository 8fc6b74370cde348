"""Blur: out of focus, by frosted glass, by motion, and by zooming."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from scipy.ndimage import correlate1d, gaussian_filter
from scipy.signal import fftconvolve

from densebench.numerics.corruptions.pixels import Picture, intensities, picture_of

DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
"""The radius of the disk in px, and the sigma in px that softens its edge."""
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
"""The sigma in px before and after, the farthest step in px, and how often pixels are shuffled."""
MOTION = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))
"""The radius of the kernel (2 r + 1 steps of a pixel) and its sigma, in px."""
ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
"""The end and the step of the range of factors."""


def defocus_blur(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture convolved with a disk; borders are mirrored without their last pixel."""
    kernel = disk(*DEFOCUS[level - 1]).astype(np.float64)
    margin = len(kernel) // 2
    padded = np.pad(intensities(picture), ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    return picture_of(fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)))


def disk(radius: int, softness: float) -> Float32[np.ndarray, "side side"]:
    """Return a disk with a softened edge, on 17 x 17 px or, beyond a radius of 8 px, on as many as it needs.

    The disk has sum 1 before the edge is softened by 3 x 3 (5 x 5) taps of a Gaussian. Where it touches the border of its array,
    at radii 8 and 10, what is mirrored there adds 1.3 and 1.1 %: levels 4 and 5 are lighter by as much, as in the reference.
    """
    reach, taps = (8, 1) if radius <= 8 else (radius, 2)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = (rows**2 + columns**2 <= radius**2).astype(np.float32)
    inside /= inside.sum()
    gaussian = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * softness**2))
    gaussian = (gaussian / gaussian.sum()).astype(np.float32)
    return correlate1d(correlate1d(inside, gaussian, 1, mode="mirror"), gaussian, 0, mode="mirror")


def glass_blur(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture as through frosted glass: blurred, its pixels moved at random, and blurred again."""
    sigma, step, times = GLASS[level - 1]
    blurred = (gaussian_filter(intensities(picture), (sigma, sigma, 0), mode="nearest") * 255).astype(np.uint8)
    height, width = blurred.shape[:2]
    offsets = generator.integers(-step, step, size=(times, max(0, height - 2 * step), max(0, width - 2 * step), 2))
    for once in offsets:
        blurred = blurred.reshape(-1, 3)[shuffled(height, width, step, once)].reshape(picture.shape)
    return picture_of(gaussian_filter(blurred / 255.0, (sigma, sigma, 0), mode="nearest"))


def shuffled(height: int, width: int, step: int, offsets: Int[np.ndarray, "rows columns 2"]) -> Int[np.ndarray, "height_width"]:
    """Return from which pixel each pixel takes its value, row by row, after one pass of the shuffle.

    The pass visits the pixels of the rows and columns step + 1 .. side - step (0 .. step are never a centre) from the last to the
    first, and copies into each the value that its neighbour has by then. (It was meant to swap the two; the reference's line only
    copies.) A neighbour that was visited before has taken another value itself: such chains are followed to their ends,
    all at once, in as many rounds as the logarithm of the longest. offsets: in the order of the visits, the steps (right, down)
    to the neighbours, -step .. step - 1.
    """
    rows, columns = np.arange(height - step, step, -1)[:, None], np.arange(width - step, step, -1)[None]
    centre = rows * width + columns
    neighbour = (rows + offsets[..., 1]) * width + columns + offsets[..., 0]
    visited = np.zeros(height * width, bool)
    visited[centre] = True
    # Node p stands for the value of pixel p after its visit, node p + n for that before it, where chains end.
    n = height * width
    follow = np.arange(2 * n)
    follow[:n] += n
    follow[centre] = np.where(visited[neighbour] & (neighbour >= centre), neighbour, neighbour + n)
    follow[centre[neighbour == centre]] += n
    while (follow < n).any():
        follow = follow[follow]
    return follow[:n] - n


def motion_blur(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture smeared along one direction within 45 degrees of the horizontal, with the weights of half a Gaussian."""
    smeared = smear(picture.astype(np.float64), *MOTION[level - 1], angle=float(generator.uniform(-45, 45)))
    return np.clip(smeared, 0, 255).astype(np.uint8)


def smear(values: Float[np.ndarray, "h w *c"], radius: int, sigma: float, angle: float) -> Float[np.ndarray, "h w *c"]:
    """Return the weighted sum of copies shifted by 0 .. 2 radius px along a direction; borders are repeated.

    angle: in degrees, 0 for a shift to the left, 90 for one upwards. A shift by the whole picture ends the sum early.
    """
    width = 2 * radius + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)
    weights = weights / np.sum(weights)
    down, right = width * np.sin(np.deg2rad(angle)), width * np.cos(np.deg2rad(angle))
    length = math.hypot(down, right)
    margins = [(width, width), (width, width), *([(0, 0)] * (values.ndim - 2))]
    padded = np.pad(values, margins, mode="edge")
    total, scaled = np.zeros_like(values), np.empty_like(values)
    for step, weight in enumerate(weights):
        up = math.ceil(step * down / length - 0.5)
        left = math.ceil(step * right / length - 0.5)
        if abs(up) >= values.shape[0] or abs(left) >= values.shape[1]:
            break
        rows = slice(width + up, width + up + values.shape[0])
        np.multiply(padded[rows, width + left : width + left + values.shape[1]], weight, out=scaled)
        total += scaled
    return total


def zoom_blur(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the mean of the picture and of its enlargements; the first factor is 1, so the picture itself counts twice."""
    values = intensities(picture).astype(np.float32)
    factors = np.arange(1, *ZOOM[level - 1])
    total = np.zeros_like(values)
    for factor in factors:
        total += zoomed(values, float(factor))[: values.shape[0], : values.shape[1]]
    return picture_of((values + total) / (len(factors) + 1))


def zoomed(values: Float[np.ndarray, "h w c"], factor: float) -> Float[np.ndarray, "height width c"]:
    """Return the middle of a picture enlarged bilinearly, corners on corners, to h x w or a little more.

    At some sizes the last row or column is black, as in the reference: scipy's zoom places it past the border by rounding.
    """
    (top, rows), (left, columns) = [_middle(side, factor) for side in values.shape[:2]]
    part = torch.from_numpy(values[top : top + rows, left : left + columns].astype(np.float64)).permute(2, 0, 1)
    size = (round(rows * factor), round(columns * factor))
    large = F.interpolate(part[None], size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
    if _is_past_border(rows, size[0]):
        large[-1] = 0
    if _is_past_border(columns, size[1]):
        large[:, -1] = 0
    return large.numpy().astype(values.dtype)


def _is_past_border(before: int, after: int) -> bool:
    """Return whether the last of `after` places lies past the last of `before` pixels by a rounding error."""
    return (before - 1) / (after - 1) * (after - 1) > before - 1


def _middle(side: int, factor: float) -> tuple[int, int]:
    """Return the start and the length of the middle part that fills a side once it is enlarged."""
    length = math.ceil(side / factor)
    return (side - length) // 2, length
