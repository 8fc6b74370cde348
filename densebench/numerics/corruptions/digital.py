"""Digital: contrast, elastic deformation, pixelation and the codec."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from densebench.numerics.corruptions.pixels import Picture, intensities, picture_of

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
"""The factor of what differs from the mean of a channel."""
ELASTIC = (12.5, 16.25, 21.25, 25.0, 30.0)
"""The factor of the smoothed displacements."""
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
"""The factor of the sides."""
QUALITY = (25, 18, 15, 10, 7)
"""The quality of JPEG."""


def contrast(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture drawn towards the mean of each channel."""
    values = intensities(picture)
    means = np.mean(values, axis=(0, 1), keepdims=True)
    tones = (np.arange(256)[:, None] / 255.0 - means[0]) * CONTRAST[level - 1] + means[0]  # of each byte and channel
    table = picture_of(tones[:, None])[:, 0]
    return table[picture, np.arange(3)]


def elastic_transform(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture bent by smooth random displacements, by at most half a percent of its **height** along both axes
    before they are smoothed (over one percent of the side) and multiplied."""
    values = picture.astype(np.float32) / np.float32(255.0)
    height, width = picture.shape[:2]
    reach = height * 0.005

    def displacements() -> np.ndarray:
        drawn = generator.uniform(-reach, reach, size=(height, width))
        smooth = gaussian_filter(drawn, (height * 0.01, width * 0.01), mode="reflect", truncate=3)
        return (smooth * ELASTIC[level - 1]).astype(np.float32)

    right, down = displacements(), displacements()
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([rows + down, columns + right])
    return picture_of(np.stack([map_coordinates(values[..., c], places, order=1, mode="reflect") for c in range(3)], -1))


def pixelate(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture reduced by box means and enlarged again by nearest neighbours."""
    height, width = picture.shape[:2]
    factor = PIXELATE[level - 1]
    small = Image.fromarray(picture).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def jpeg_compression(picture: Picture, level: int, generator: np.random.Generator) -> Picture:
    """Return the picture after a JPEG of low quality; its pixels depend on the version of the codec that Pillow has."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=QUALITY[level - 1])
    return np.asarray(Image.open(stream))
