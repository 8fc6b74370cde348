"""Contact sheets: pictures in rows and columns that have names, with a title and a note."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Row = tuple[str, Sequence[Image.Image]]
"""The name of a row ("" for none), and its pictures from left to right."""

WIDEST = 3000  # px of a row: larger pictures are reduced
GAP = 6
TITLE, HEADING, NOTE = 22, 16, 14  # sizes of the letters, px
GREY = (90, 90, 90)


def sheet(rows: Sequence[Row], columns: Sequence[str], title: str = "", note: str = "") -> Image.Image:
    """Return pictures in a grid on white: the names of the columns above, the name of each row above it.

    A column is as wide as its widest picture and its name; all pictures are reduced alike where a row would be too wide.
    """
    shown = _reduced(rows)
    count = max([len(columns), *(len(pictures) for _, pictures in shown)])
    named = [*columns, *[""] * (count - len(columns))]
    widths = [
        max([*(pictures[i].width for _, pictures in shown if i < len(pictures)), _width(named[i], HEADING)]) for i in range(count)
    ]
    texts = [(title, TITLE), *((name, HEADING) for name, _ in rows)]
    width = max(sum(widths) + GAP * (count + 1), *(_width(text, size) + 2 * GAP for text, size in texts))
    lines = [line for part in note.splitlines() for line in textwrap.wrap(part, max(20, width // (NOTE * 5 // 9)))]
    height = GAP + _height([title], TITLE) + _height(columns, HEADING) + len(lines) * _height(["x"], NOTE) + GAP
    height += sum(_height([name], HEADING) + max((each.height for each in pictures), default=0) + GAP for name, pictures in shown)
    result = Image.new("RGB", (width, height), "white")
    top = GAP + _write(result, title, GAP, GAP, TITLE)
    lefts = [GAP + sum(widths[:i]) + GAP * i for i in range(count)]
    for left, name in zip(lefts, named, strict=True):
        _write(result, name, left, top, HEADING)
    top += _height(columns, HEADING)
    for name, pictures in shown:
        top += _write(result, name, GAP, top, HEADING)
        for left, picture in zip(lefts, pictures, strict=False):
            result.paste(picture, (left, top))
        top += max((each.height for each in pictures), default=0) + GAP
    for line in lines:
        top += _write(result, line, GAP, top, NOTE, GREY)
    return result


def _reduced(rows: Sequence[Row]) -> list[tuple[str, list[Image.Image]]]:
    widest = max((sum(each.width for each in pictures) for _, pictures in rows), default=0)
    scale = min(1.0, WIDEST / max(1, widest))
    if scale == 1:
        return [(name, list(pictures)) for name, pictures in rows]
    return [(name, [_scaled(each, scale) for each in pictures]) for name, pictures in rows]


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _width(text: str, size: int) -> int:
    return int(ImageFont.load_default(size).getlength(text)) + 1 if text else 0


def _height(texts: Sequence[str], size: int) -> int:
    return size + size // 2 if any(texts) else 0


def _write(picture: Image.Image, text: str, left: int, top: int, size: int, colour: tuple[int, int, int] = (0, 0, 0)) -> int:
    """Write a line and return the height that it takes."""
    if text:
        ImageDraw.Draw(picture).text((left, top), text, fill=colour, font=ImageFont.load_default(size))
    return _height([text], size)
