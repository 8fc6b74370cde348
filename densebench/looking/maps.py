"""The maps of a view as small pictures, a pixel a patch, and parts of pictures around a patch."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from densebench.looking.looked import Seen, View
from densebench.pictures.palette import distinct_palette

LEVELS = 64
"""Colours of a scale in a map: few enough for small files, too many to be told apart."""
SHADES = "viridis"
Box = tuple[float, float, float, float]


class Scale(NamedTuple):
    """The values of the darkest and of the brightest colour."""

    low: float
    high: float


COSINES = Scale(0.0, 1.0)


@functools.cache
def shades(count: int = 256) -> tuple[tuple[int, int, int], ...]:
    """Return a scale of colours, dark blue to yellow, whose lightness rises evenly (viridis)."""
    from matplotlib import colormaps

    colours = colormaps[SHADES](np.linspace(0, 1, count))[:, :3]
    return tuple((round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colours.tolist())


def colours(view: View) -> Image.Image:
    """Return the first three principal components as a picture."""
    return Image.fromarray(np.ascontiguousarray(view.colours, dtype=np.uint8))


def background(view: View) -> Image.Image:
    """Return a veil, opaque grey where a patch counts as background and transparent elsewhere."""
    veil = np.zeros((*view.foreground.shape, 4), np.uint8)
    veil[~view.foreground] = (128, 128, 128, 255)
    return Image.fromarray(veil)


def clusters(view: View, count: int) -> Image.Image:
    """Return the numbers of clusters in colours, the same for the same cluster; count: of the clusters of the backbone."""
    return _paletted(view.clusters, distinct_palette(count))


def shaded(values: Float[np.ndarray, "h w"], scale: Scale) -> Image.Image:
    """Return values in the colours of the scale; what lies outside has the colour of its end."""
    share = (np.nan_to_num(values) - scale.low) / max(scale.high - scale.low, 1e-12)
    return _paletted(np.clip(share * (LEVELS - 1), 0, LEVELS - 1).round(), shades(LEVELS))


def heads(view: View) -> Image.Image:
    """Return the attention of each head in turn, by rows, each from zero to its own highest value, with a gap of one pixel."""
    assert view.attention is not None
    _, height, width = view.attention.shape
    across, down = heads_across(view)
    result = Image.new("RGBA", (across * (width + 1) - 1, down * (height + 1) - 1))
    for index, head in enumerate(view.attention):
        place = (index % across * (width + 1), index // across * (height + 1))
        result.paste(shaded(head, Scale(0.0, float(np.nan_to_num(head).max()))), place)
    return result.quantize(LEVELS + 1, method=Image.Quantize.FASTOCTREE)


def heads_across(view: View) -> tuple[int, int]:
    """Return how many heads stand beside each other, and how many rows they have."""
    count = 0 if view.attention is None else len(view.attention)
    across = max(1, math.ceil(math.sqrt(count)))
    return across, max(1, math.ceil(count / across))


def norm_scale(seen: Seen) -> Scale:
    """Return the lowest and the highest norm of a backbone's tokens, outliers aside, over all pictures.

    They are at least 5 % apart, so that norms that a final norm layer makes equal look equal.
    """
    usual = np.concatenate([view.norms[~view.outliers].ravel() for view in seen.views])
    if not usual.size:
        usual = np.concatenate([view.norms.ravel() for view in seen.views])
    low, high = float(np.nanmin(usual)), float(np.nanmax(usual))
    return Scale(min(low, 0.95 * high), high)


def cluster_count(seen: Seen) -> int:
    """Return one more than the greatest number of a backbone's clusters."""
    return 1 + max(int(view.clusters.max()) for view in seen.views)


def patch(place: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
    """Return row and column of the patch of a grid [gh gw] that holds a place, given as shares of height and width."""
    row, column = (min(int(share * count), count - 1) for share, count in zip(place, grid, strict=True))
    return row, column


def patch_box(row: int, column: int, grid: tuple[int, int]) -> Box:
    """Return left, top, right and bottom of a patch as shares of the picture."""
    rows, columns = grid
    return column / columns, row / rows, (column + 1) / columns, (row + 1) / rows


def around(box: Box, size: tuple[int, int]) -> Box:
    """Return a square around a part of a picture of a size in px (width, height), as shares: within it where it fits.

    The square is a quarter of the shorter side, or three patches where these are larger.
    """
    width, height = size
    left, top, right, bottom = box
    side = max(0.25 * min(size), 3 * (right - left) * width, 3 * (bottom - top) * height)
    across, down = min(1.0, side / width), min(1.0, side / height)
    start = min(max((left + right) / 2 - across / 2, 0), 1 - across), min(max((top + bottom) / 2 - down / 2, 0), 1 - down)
    return start[0], start[1], start[0] + across, start[1] + down


def _paletted(values: np.ndarray, palette: list[tuple[int, int, int]] | tuple[tuple[int, int, int], ...]) -> Image.Image:
    """Return numbers as a picture with a palette; with more than 256 colours, as RGB."""
    if len(palette) > 256:
        return Image.fromarray(np.asarray(palette, np.uint8)[values.astype(int)])
    result = Image.fromarray(values.astype(np.uint8))
    result.putpalette([channel for colour in palette for channel in colour])
    return result
