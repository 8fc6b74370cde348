"""Pictures on disk, and pictures beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from densebench.files.atomic import replacing


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with replacing(path) as part:
        picture.save(part, format="PNG")


def row(parts: Sequence[Image.Image], gap: int, down: bool = False) -> Image.Image:
    """Return pictures beside each other (or below each other) on white."""
    widths, heights = [part.width for part in parts], [part.height for part in parts]
    along, across = (heights, widths) if down else (widths, heights)
    length = sum(along) + gap * (len(parts) - 1)
    result = Image.new("RGB", (max(across), length) if down else (length, max(across)), "white")
    start = 0
    for part, size in zip(parts, along, strict=True):
        result.paste(part, (0, start) if down else (start, 0))
        start += size + gap
    return result
