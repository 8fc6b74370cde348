"""Label maps from shapes: polygons, ellipses and run lengths, painted one over the other.

The rule: coordinates are in px, x to the right and y down, with (0, 0) at the upper left corner of the image, so that the pixel
in column c and row r covers [c, c + 1) x [r, r + 1). A pixel belongs to a shape where its centre (c + 0.5, r + 0.5) does: in a
polygon by the even-odd rule, where a left or an upper edge belongs to it and a right or a lower one does not. So polygons that
share an edge neither overlap nor leave a gap. (pycocotools, whose rule is another, differs along the edges, by at most a pixel.)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

VERSION = 1  # raise it when a shape would be painted otherwise
FARTHEST = 2**20  # px, of a coordinate
CORNERS = 3  # fewest corners of a polygon; lesser ones have no area

Numbers = Sequence[float]


@dataclass(frozen=True)
class Polygons:
    """All that one or more polygons enclose, each by its corners x0, y0, x1, y1, ..."""

    rings: tuple[tuple[float, ...], ...]

    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom."""
        xs = [x for ring in self.rings for x in ring[0::2]]
        ys = [y for ring in self.rings for y in ring[1::2]]
        return (min(xs), min(ys), max(xs), max(ys)) if xs else (0.0, 0.0, 0.0, 0.0)

    def fill(self, left: int, top: int, width: int, height: int) -> Bool[np.ndarray, "h w"]:
        """Return which pixels of a window belong to the shape."""
        inside = np.zeros((height, width), bool)
        for ring in self.rings:
            inside |= _enclosed(ring, left, top, width, height)
        return inside


@dataclass(frozen=True)
class Ellipse:
    """An ellipse: its centre, its half axes, and by how many degrees it is turned clockwise."""

    x: float
    y: float
    across: float
    down: float
    degrees: float = 0.0

    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of a square that holds it, however it is turned."""
        reach = max(self.across, self.down)
        return self.x - reach, self.y - reach, self.x + reach, self.y + reach

    def fill(self, left: int, top: int, width: int, height: int) -> Bool[np.ndarray, "h w"]:
        """Return which pixels of a window belong to the shape, its line included."""
        x, y = np.arange(width) + (left + 0.5 - self.x), (np.arange(height) + (top + 0.5 - self.y))[:, None]
        cosine, sine = np.cos(np.radians(self.degrees)), np.sin(np.radians(self.degrees))
        across, down = (x * cosine + y * sine) / self.across, (y * cosine - x * sine) / self.down
        return across**2 + down**2 <= 1


@dataclass(frozen=True)
class Runs:
    """A block of pixels by run lengths, outside first. by_column: runs go down the columns, as COCO's, else along the rows."""

    left: int
    top: int
    width: int
    height: int
    lengths: tuple[int, ...]
    by_column: bool = False

    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom."""
        return float(self.left), float(self.top), float(self.left + self.width), float(self.top + self.height)

    def fill(self, left: int, top: int, width: int, height: int) -> Bool[np.ndarray, "h w"]:
        """Return which pixels of a window that lies within the block belong to the shape."""
        values = np.repeat(np.arange(len(self.lengths)) % 2 == 1, self.lengths)
        block = values.reshape(self.width, self.height).T if self.by_column else values.reshape(self.height, self.width)
        return block[top - self.top : top - self.top + height, left - self.left : left - self.left + width]


Outline = Polygons | Ellipse | Runs


@dataclass(frozen=True)
class Drawing:
    """The shapes of one image. size: width and height in px. smaller_on_top: larger ones are painted first."""

    size: tuple[int, int]
    shapes: tuple[tuple[str, Outline], ...]
    smaller_on_top: bool = False

    def identity(self) -> list[Any]:
        """Return all that decides what `paint` gives, as JSON values."""
        values = [[label, type(outline).__name__, *vars(outline).values()] for label, outline in self.shapes]
        return [list(self.size), self.smaller_on_top, values]

    def paint(self, ids: Mapping[str, int], outside: int) -> UInt8[np.ndarray, "h w"]:
        """Return the id of each pixel: `outside`, or that of the last shape's label there.

        Of shapes of the same size in pixels, the later one is on top.
        """
        width, height = self.size
        regions = [(label, *_region(outline, width, height)) for label, outline in self.shapes]
        if self.smaller_on_top:
            regions.sort(key=lambda region: -int(region[3].sum()))
        painted = np.full((height, width), outside, np.uint8)
        for label, left, top, inside in regions:
            painted[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = ids[label]
        return painted


def checked_ring(values: Sequence[Any]) -> tuple[float, ...]:
    """Return the coordinates of a polygon. Raises ValueError where they are no finite numbers or one corner lacks its y."""
    if not isinstance(values, list | tuple) or len(values) % 2:
        raise ValueError("a polygon is not a list of x, y, x, y, ...")
    return tuple(checked(value) for value in values)


def checked(value: Any) -> float:
    """Return a coordinate. Raises ValueError for what is no number or lies too far away."""
    if type(value) not in (int, float) or not abs(value) <= FARTHEST:
        raise ValueError(f"{str(value)[:40]} is not a coordinate up to {FARTHEST}")
    return float(value)


def turned(box: tuple[float, float, float, float], degrees: float) -> Polygons:
    """Return a box that is turned clockwise about its middle."""
    left, top, right, bottom = box
    x, y = (left + right) / 2, (top + bottom) / 2
    cosine, sine = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    if degrees:
        corners = [(x + (a - x) * cosine - (b - y) * sine, y + (a - x) * sine + (b - y) * cosine) for a, b in corners]
    return Polygons((tuple(itertools.chain(*corners)),))


def _region(outline: Outline, width: int, height: int) -> tuple[int, int, Bool[np.ndarray, "h w"]]:
    """Return the left and top of a window of the image that holds the shape, and which of its pixels belong to it."""
    left, top, right, bottom = outline.box()
    first, last = max(int(np.floor(left)), 0), min(int(np.ceil(right)), width)
    upper, lower = max(int(np.floor(top)), 0), min(int(np.ceil(bottom)), height)
    if first >= last or upper >= lower:
        return 0, 0, np.zeros((0, 0), bool)
    return first, upper, outline.fill(first, upper, last - first, lower - upper)


def _enclosed(ring: Numbers, left: int, top: int, width: int, height: int) -> Bool[np.ndarray, "h w"]:
    """Return which pixels' centres a polygon encloses: each edge flips the rest of the rows that it crosses."""
    flips = np.zeros((height, width + 1), np.uint8)
    corners = [(x - left, y - top) for x, y in zip(ring[0::2], ring[1::2], strict=True)]
    for start, end in zip(corners, [*corners[1:], *corners[:1]], strict=True):
        (xa, ya), (xb, yb) = sorted((start, end), key=lambda corner: (corner[1], corner[0]))
        rows = np.arange(max(int(np.ceil(ya - 0.5)), 0), min(int(np.ceil(yb - 0.5)), height))
        if len(rows):
            crossings = xa + (rows + 0.5 - ya) * ((xb - xa) / (yb - ya))
            flips[rows, np.ceil(crossings - 0.5).clip(0, width).astype(int)] ^= 1
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :width].astype(bool)
