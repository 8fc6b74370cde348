"""Image and label files to arrays, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from densebench.errors import UserError

# What Pillow raises for a file that is cut short or is no image at all; a missing file is told apart by its type.
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: Path) -> Image.Image:
    """Decode a whole image as RGB. Raises UserError where the file is missing, truncated or no image."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"the image {path} is missing; fetch it again or take it out of the list") from error
    except BROKEN as error:
        raise UserError(f"the image {path} cannot be decoded ({error}); fetch it again") from error


def image_size(path: Path) -> tuple[int, int]:
    """The width and height of an image, from its header alone."""
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError as error:
        raise UserError(f"the image {path} is missing; fetch it again or take it out of the list") from error
    except BROKEN as error:
        raise UserError(f"the image {path} cannot be opened ({error}); fetch it again") from error


def read_mask(path: Path, mode: str = "P") -> np.ndarray:
    """Decode a label file without converting its values.

    `mode` "P" means one id a pixel: a palette's indices or grey values, uint8 [h, w]. `mode` "RGB" gives uint8 [h, w, 3].
    Raises UserError where the file is missing, broken or of another kind.
    """
    wanted = {"P": ("P", "L", "1"), "RGB": ("RGB",)}[mode]
    try:
        with Image.open(path) as mask:
            if mask.mode not in wanted:
                kind = {"P": "one id a pixel (8-bit palette or grey)", "RGB": "RGB"}[mode]
                raise UserError(f"the label map {path} has mode {mask.mode}, not {kind}; convert it")
            return np.array(mask).astype(np.uint8)
    except FileNotFoundError as error:
        raise UserError(f"the label map {path} is missing; fetch it again or take its image out of the list") from error
    except BROKEN as error:
        raise UserError(f"the label map {path} cannot be decoded ({error}); fetch it again") from error
