"""Between bytes and intensities: what all corruptions share, and what decides single grey levels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

SMALLEST = 32
"""The shortest side in px of a picture that can be corrupted; the references refuse smaller ones too."""

Picture = UInt8[np.ndarray, "h w 3"]
Photograph = UInt8[np.ndarray, "_ _ 3"]
"""A picture of any size beside others."""


def intensities(picture: Picture) -> Float[np.ndarray, "h w 3"]:
    """Return a picture as float64 of 0..1."""
    return picture / 255.0


def picture_of(values: Float[np.ndarray, "h w 3"]) -> Picture:
    """Return intensities as bytes: clipped to 0..1 and **truncated**, as in the reference, half a level darker than rounded.

    All 256 bytes survive `picture_of(intensities(...))`.
    """
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)
