"""Small versions of pictures, decoded at a fraction of their size where the file allows it, to compare many in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float
from PIL import Image

from densebench.datasets.images import Images
from densebench.datasets.io.decoding import use_decoder, used_decoder

SIDE = 16
"""Pixels of a thumbnail's sides."""
BINS = 4
"""Of each colour channel in the histogram of a descriptor."""


@contextmanager
def decoder(name: str) -> Iterator[None]:
    """Use a decoder of JPEG files during the block."""
    before = used_decoder()
    use_decoder(name)
    try:
        yield
    finally:
        use_decoder(before)


def thumbnail(images: Images, index: int) -> Float[np.ndarray, "16 16 3"]:
    """Return a picture squeezed to a square, values 0..1. Raises UserError where it cannot be decoded."""
    image, _ = images.reduced(index, 4 * SIDE)
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2)
    return np.asarray(small, dtype=np.float32) / 255


def descriptor(small: Float[np.ndarray, "16 16 3"]) -> Float[np.ndarray, "d"]:
    """Return what a thumbnail shows: where its colours are (at an eighth of its pixels) and how often each occurs.

    Both parts have length about one: the layout without its mean, and the square roots of a histogram (so that the distance of
    two is that of Hellinger).
    """
    coarse = small.reshape(SIDE // 2, 2, SIDE // 2, 2, 3).mean((1, 3))
    layout = (coarse - coarse.mean()).ravel()
    numbers = np.minimum((small * BINS).astype(int), BINS - 1) @ np.array([BINS * BINS, BINS, 1])
    counts = np.bincount(numbers.ravel(), minlength=BINS**3)
    return np.concatenate([layout / np.sqrt(len(layout)) * 4, np.sqrt(counts / counts.sum())]).astype(np.float32)
