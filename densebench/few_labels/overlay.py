"""A picture with its label map over it, in translucent colours, and a legend of the classes that are seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from densebench.pictures.palette import Colour

MOST, LEAST = 3_000_000, 256
"""Larger pictures are reduced to so many px in all; smaller ones are enlarged until the longer side has so many px."""
OPACITY = 0.5
NARROWEST = 420  # px: below it a legend has no room
LETTERS, GAP = 16, 8
INK, PAPER = (20, 20, 20), (255, 255, 255)


def overlay(
    picture: Image.Image, labels: UInt8[np.ndarray, "h w"], names: Sequence[str], palette: Sequence[Colour]
) -> Image.Image:
    """Return an RGB picture whose pixels are half their own, half the colour of their class, with lines where classes meet.

    The classes that are seen stand below it, with the share of pixels that each has, the largest first.
    """
    size = _shown_size(*picture.size)
    shown = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    ids = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    colours = np.array(palette, dtype=np.float32)[ids]
    mixed = (1 - OPACITY) * shown + OPACITY * colours
    mixed[_borders(ids)] = 255
    counts = np.bincount(labels.ravel(), minlength=len(names))
    seen = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    entries = [(f"{names[index]} {_percent(counts[index] / labels.size)}", palette[index]) for index in seen]
    return _with_legend(Image.fromarray(mixed.round().astype(np.uint8)), entries)


def _shown_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, math.sqrt(MOST / (width * height)))
    scale = max(1, LEAST // max(width, height)) if max(width, height) < LEAST else scale
    return max(1, round(width * scale)), max(1, round(height * scale))


def _borders(ids: UInt8[np.ndarray, "h w"]) -> np.ndarray:
    """Return the pixels whose right or lower neighbour is of another class."""
    borders = np.zeros(ids.shape, bool)
    borders[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    borders[:-1] |= ids[:-1] != ids[1:]
    return borders


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"


def _with_legend(picture: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """Return the picture with lines of swatches and names below it."""
    font, width = ImageFont.load_default(LETTERS), max(picture.width, NARROWEST)
    places, left, top = [], GAP, GAP
    for text, colour in entries:
        needed = LETTERS + GAP // 2 + math.ceil(font.getlength(text)) + 2 * GAP
        if left > GAP and left + needed > width:
            left, top = GAP, top + LETTERS + GAP
        places.append((left, top, text, colour))
        left += needed
    result = Image.new("RGB", (width, picture.height + top + LETTERS + 2 * GAP), PAPER)
    result.paste(picture, (0, 0))
    draw = ImageDraw.Draw(result)
    for left, top, text, colour in places:
        y = picture.height + top
        draw.rectangle((left, y, left + LETTERS - 1, y + LETTERS - 1), fill=colour, outline=INK)
        draw.text((left + LETTERS + GAP // 2, y + LETTERS // 2), text, fill=INK, font=font, anchor="lm")
    return result
