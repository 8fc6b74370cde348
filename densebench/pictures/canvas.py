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
LONGEST = 200  # letters of a name, and of a description
DESCRIPTION, LEGEND = "Description", "Legend"  # the keys of the texts in a PNG


def save(picture: Image.Image, path: Path, *, description: str = "", legend: Legend = ()) -> None:
    """Write a PNG atomically. description: what it shows. legend: what its colours mean. Both are texts inside the PNG."""
    texts = PngInfo()
    if description:
        texts.add_itxt(DESCRIPTION, description)
    if legend:
        texts.add_itxt(LEGEND, json.dumps(legend), zip=True)
    with replacing(path) as part:
        picture.save(part, format="PNG", pnginfo=texts)


def description_and_legend(picture: Image.Image) -> tuple[str, list[tuple[str, str]]]:
    """Return the description and the legend that `save` wrote into a PNG; "" and [] where they are missing or damaged."""
    texts = getattr(picture, "text", {})
    try:
        legend = json.loads(texts.get(LEGEND, "[]"))
    except (ValueError, RecursionError):
        legend = []
    legend = legend if isinstance(legend, list) and len(legend) <= MOST and all(map(_names_colour, legend)) else []
    return one_line(str(texts.get(DESCRIPTION, ""))[:LONGEST]), [(one_line(name), colour) for name, colour in legend]


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
