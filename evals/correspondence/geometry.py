"""Where keypoints lie on the grid of features, and where a cell of the grid lies in the image.

Half a patch decides PCK at 0.05, and the public codes differ by just that. Each function here has one choice that a preset makes.
Points are x, y in px, of the image or of the frame (see `Placement`); cells are column, row on the grid of features, from 0.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from densebench.features.padded_views import Placement

Points = Float[np.ndarray, "k 2"]
Grid = tuple[int, int]
"""Columns and rows."""

ROUNDINGS = ("exact", "truncated")
SOURCES = ("bilinear", "bilinear-corners", "containing", "rounded")
POSITIONS = ("centre", "centre-minus-half", "corner")
CANDIDATES = ("inside", "all")


def in_frame(points: Points, placed: Placement, rounding: str = "exact") -> Points:
    """Return points of an image in px of its frame.

    rounding: "truncated" drops fractions of the image's px and then those of the frame's, as Probe3D's integer tensors do.
    """
    scale, corner = np.array(placed.scale), np.array(placed.corner, np.float64)
    if rounding == "truncated":
        # A product that is whole but for rounding, such as 3 px x (200 / 75), stays whole.
        return np.trunc(np.round(np.trunc(points) * scale, 9)) + corner
    return points * scale + corner


def in_image(points: Points, placed: Placement) -> Points:
    """Return points of a frame in px of the original image."""
    return (points - np.array(placed.corner)) / np.array(placed.scale)


def cells_of(points: Points, placed: Placement, grid: Grid, source: str) -> Points:
    """Return the cells at which the features of points of a frame are read, interpolated between whole ones.

    source: "bilinear": 0 is the centre of the first patch (align_corners False). "bilinear-corners": 0 stands for the left edge
    of the frame and the last cell for the right one (align_corners True, Probe3D). "containing": the patch in which a point
    lies (SD-DINO). "rounded": the nearest whole cell where cell i stands for the left edge of patch i (INSID3), ties to even.
    The last two are computed in float32, as there. Points outside take the nearest cell of the grid or, for "bilinear", the
    nearest patch whose centre lies in the image.
    """
    count = np.array(grid)
    last: np.ndarray = count - 1
    if source == "bilinear":
        cells = (points + np.array(placed.offset)) / stride_of(placed, grid) - 0.5
        bounds = [np.flatnonzero(inside)[[0, -1]] for inside in _inside(placed, grid)]
        return np.clip(cells, [low for low, _ in bounds], [high for _, high in bounds])
    if source == "bilinear-corners":
        cells = points / np.array(placed.frame) * last
    else:
        in_view, per_px = (
            (points + np.array(placed.offset)).astype(np.float32),
            (count / np.array(placed.view)).astype(np.float32),
        )
        scaled = (in_view * per_px).astype(np.float64)
        cells = np.trunc(scaled) if source == "containing" else np.round(scaled)
    return np.clip(cells, 0, last)


def positions_of(cells: Points, placed: Placement, grid: Grid, position: str) -> Points:
    """Return the points of the image that cells stand for, which may lie between whole ones.

    position: "centre": of the patch. "centre-minus-half": half a px of the frame before it (SD-DINO). "corner": the column over
    the number of columns times the width of the frame, and the same for the row: what fills the frame up to a multiple of
    the stride is not undone (Probe3D, INSID3).
    """
    if position == "corner":
        return in_image(cells * np.array(placed.frame) / np.array(grid), placed)
    shift = 0.5 if position == "centre-minus-half" else 0.0
    return in_image((cells + 0.5) * stride_of(placed, grid) - shift - np.array(placed.offset), placed)


def candidates_of(placed: Placement, grid: Grid, candidates: str) -> Bool[np.ndarray, "rows columns"]:
    """Return which patches may be matched: all, or those whose centres lie "inside" the image, one row and column at least."""
    if candidates == "all":
        return np.ones(grid[::-1], bool)
    columns, rows = _inside(placed, grid)
    return rows[:, None] & columns


def patches_in(box: tuple[float, float, float, float] | None, placed: Placement, grid: Grid) -> Bool[np.ndarray, "rows columns"]:
    """Return the patches whose centres lie in a box of the image, left, top, right, bottom in px; those in the image without one.

    There is one row and one column at least.
    """
    ends = (0.0, 0.0, *map(float, placed.image)) if box is None else box
    columns, rows = (_between(placed, grid, axis, ends[axis], ends[axis + 2]) for axis in (0, 1))
    return rows[:, None] & columns


def stride_of(placed: Placement, grid: Grid) -> Float[np.ndarray, "2"]:
    """Return the px of the view from one patch to the next, along x and y."""
    return np.array(placed.view) / np.array(grid)


def _inside(placed: Placement, grid: Grid) -> list[Bool[np.ndarray, "cells"]]:
    """Return which columns, and which rows, have their centre in the image."""
    return [_between(placed, grid, axis, 0.0, float(placed.image[axis])) for axis in (0, 1)]


def _between(placed: Placement, grid: Grid, axis: int, low: float, high: float) -> Bool[np.ndarray, "cells"]:
    """Return which columns (axis 0) or rows have their centre from `low` up to `high` px of the image; else the nearest one."""
    centres = (np.arange(grid[axis]) + 0.5) * stride_of(placed, grid)[axis] - placed.offset[axis]
    centres = (centres - placed.corner[axis]) / placed.scale[axis]
    found: np.ndarray = (centres >= low) & (centres < high)
    if not found.any():
        found[np.abs(centres - (low + high) / 2).argmin()] = True
    return found
