"""Nine patches inside a box: a grid of 3 x 3 points, where an image's view shows them, and which patch each lies in."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.datasets.boxed import Objects
from densebench.views import CentreCropView

SIDE = 3


def largest(objects: Objects) -> int | None:
    """The place of the object with the largest box, of equal ones the first; crowds do not count. None where there is none."""
    width, height = (objects.boxes[:, 2:] - objects.boxes[:, :2]).T
    areas = (width * height) * ~objects.crowd
    return int(areas.argmax()) if areas.any() else None


def points(box: Float[Tensor, "4"]) -> Float[Tensor, "9 2"]:
    """The centres (x, y) of the 3 x 3 cells of a box (left, top, right, bottom), row by row."""
    odd = torch.arange(1, 2 * SIDE, 2, dtype=box.dtype)
    y, x = torch.meshgrid(odd, odd, indexing="ij")
    return box[:2] + torch.stack([x, y], dim=-1).view(-1, 2) * (box[2:] - box[:2]) / (2 * SIDE)


def seen(where: Float[Tensor, "n 2"], width: int, height: int, view: CentreCropView, mapping: str) -> Float[Tensor, "n 2"]:
    """Points (x, y) of an image of width x height px in px of its view; some may lie outside.

    mapping: "right" follows the image: it is resized, keeping its aspect, and the crop's corner is taken off. "reference" is
    what FLSL's code does: x and y are scaled, each by itself, to a square whose side is the short side, and half of what the
    crop leaves is taken off both. The two agree on square images alone.
    """
    resized = view.resized(width, height) if mapping == "right" else (view.short_side, view.short_side)
    return where * torch.tensor(resized) / torch.tensor([width, height]) - torch.tensor(view.corner(*resized))


def patches(where: Float[Tensor, "n 2"], stride: int, grid: tuple[int, int]) -> Int[Tensor, "n"]:
    """The patch, numbered row by row, that each point (x, y) of a view lies in; from outside, the nearest one at the border.

    grid: rows and columns of patches, `stride` px wide and high.
    """
    column, row = (where / stride).floor().long().unbind(-1)
    return row.clamp(0, grid[0] - 1) * grid[1] + column.clamp(0, grid[1] - 1)
