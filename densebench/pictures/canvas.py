"""Pictures on disk, and pictures beside each other."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from densebench.console import one_line
from densebench.files.atomic import replacing

Legend = Sequence[tuple[str, str]]
"""Names of classes, and their colours as "#rrggbb"."""


MOST = 1000  # classes of a legend
LONGEST = 200  # letters of a name, and of what is seen
SEEN, LEGEND = "Description", "Legend"  # the texts of a PNG


def save(picture: Image.Image, path: Path, *, seen: str = "", legend: Legend = ()) -> None:
    """Write a PNG atomically. seen: what it shows, in words. legend: what its colours mean; both are texts inside of the PNG."""
    texts = PngInfo()
    if seen:
        texts.add_itxt(SEEN, seen)
    if legend:
        texts.add_itxt(LEGEND, json.dumps(legend), zip=True)
    with replacing(path) as part:
        picture.save(part, format="PNG", pnginfo=texts)


def said_of(picture: Image.Image) -> tuple[str, list[tuple[str, str]]]:
    """Return what an opened PNG shows, in words, and its legend; "" and [] for what it does not say as `save` writes it."""
    texts = getattr(picture, "text", {})
    try:
        legend = json.loads(texts.get(LEGEND, "[]"))
    except (ValueError, RecursionError):
        legend = []
    legend = legend if isinstance(legend, list) and len(legend) <= MOST and all(map(_names_colour, legend)) else []
    return one_line(str(texts.get(SEEN, ""))[:LONGEST]), [(one_line(name), colour) for name, colour in legend]


def _names_colour(pair: Any) -> bool:
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) for each in pair)):
        return False
    return len(pair[0]) <= LONGEST and re.fullmatch(r"#[0-9a-f]{6}", pair[1]) is not None


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
