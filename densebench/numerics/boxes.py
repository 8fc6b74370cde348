"""Boxes (left, top, right, bottom) in px and the patches inside them: points on a 3 x 3 grid, and where a crop shows them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SIDE = 3
INSIDE = 0.001  # how far inside the crop's right and lower borders FLSL's code puts coordinates that lie beyond


def largest(boxes: Float[np.ndarray, "n 4"], crowd: Bool[np.ndarray, "n"]) -> int | None:
    """Return the index of the largest box, of equal ones the first; crowds do not count. None where no box has an area."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    areas = (width * height).clip(min=0) * ~crowd
    return int(areas.argmax()) if areas.any() else None


def cell_centres(box: Float[Tensor, "4"]) -> Float[Tensor, "9 2"]:
    """Return the centres (x, y) of the 3 x 3 cells of a box, row by row."""
    odd = torch.arange(1, 2 * SIDE, 2, dtype=box.dtype)
    y, x = torch.meshgrid(odd, odd, indexing="ij")
    return box[:2] + torch.stack([x, y], dim=-1).view(-1, 2) * (box[2:] - box[:2]) / (2 * SIDE)


def in_crop(
    points: Float[Tensor, "n 2"], size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]
) -> Float[Tensor, "n 2"]:
    """Return points (x, y) of an image as points of a crop; some may lie outside.

    The image of `size` (width, height) is resized to `resized`, and the crop begins at `corner` (left, top).
    """
    return points * torch.tensor(resized) / torch.tensor(size) - torch.tensor(corner)


def clipped_to_crop(
    boxes: Float[Tensor, "n 4"], size: tuple[int, int], short_side: int, corner: tuple[int, int], side: int
) -> Float[Tensor, "n 4"]:
    """Return boxes of an image of `size` (width, height) in px of its centre crop of `side` px, as FLSL's code maps them.

    x and y are scaled, each by itself, to a square whose side is the short side, and the crop's corner in that square is
    subtracted: right for square images alone. What is below 0 becomes 0, what is above the crop's side 0.001 less than it.
    """
    mapped = boxes * short_side / torch.tensor([*size, *size]) - torch.tensor([*corner, *corner])
    return torch.where(mapped > side, side - INSIDE, mapped.clamp(min=0))


def patches_at(points: Float[Tensor, "n 2"], stride: int, grid: tuple[int, int]) -> Int[Tensor, "n"]:
    """Return the patch, numbered row by row, that each point (x, y) lies in; from outside, the nearest one at the border.

    grid: rows and columns of patches, `stride` px wide and high.
    """
    column, row = (points / stride).floor().long().unbind(-1)
    return row.clamp(0, grid[0] - 1) * grid[1] + column.clamp(0, grid[1] - 1)
