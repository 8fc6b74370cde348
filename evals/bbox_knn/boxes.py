"""Nine patches inside a box: a grid of 3 x 3 points, where an image's view shows them, and which patch each lies in."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.datasets.boxes import Objects
from densebench.features.views import CentreCropView

SIDE = 3
INSIDE = 0.001  # how far inside the crop's right and lower borders FLSL's code puts coordinates that lie beyond


def largest(objects: Objects) -> int | None:
    """The place of the object with the largest box, of equal ones the first; crowds do not count. None where there is none."""
    width, height = (objects.boxes[:, 2:] - objects.boxes[:, :2]).T
    areas = (width * height).clip(min=0) * ~objects.crowd
    return int(areas.argmax()) if areas.any() else None


def points(box: Float[Tensor, "4"]) -> Float[Tensor, "9 2"]:
    """The centres (x, y) of the 3 x 3 cells of a box (left, top, right, bottom), row by row."""
    odd = torch.arange(1, 2 * SIDE, 2, dtype=box.dtype)
    y, x = torch.meshgrid(odd, odd, indexing="ij")
    return box[:2] + torch.stack([x, y], dim=-1).view(-1, 2) * (box[2:] - box[:2]) / (2 * SIDE)


def seen(where: Float[Tensor, "n 2"], width: int, height: int, view: CentreCropView) -> Float[Tensor, "n 2"]:
    """Points (x, y) of an image of width x height px in px of its view; some may lie outside.

    They follow the image: it is resized, keeping its aspect ratio, and the crop's corner is subtracted.
    """
    resized = view.resized(width, height)
    return where * torch.tensor(resized) / torch.tensor([width, height]) - torch.tensor(view.corner(*resized))


def clipped(boxes: Float[Tensor, "n 4"], width: int, height: int, view: CentreCropView) -> Float[Tensor, "n 4"]:
    """Return boxes of an image of width x height px in px of its view, as FLSL's code maps them.

    x and y are scaled, each by itself, to a square whose side is the short side, and half of what is cropped is subtracted:
    right for square images alone. What is below 0 becomes 0, what is above the crop's side becomes 0.001 less than it.
    """
    square = (view.short_side, view.short_side)
    found = boxes * view.short_side / torch.tensor([width, height] * 2) - torch.tensor(view.corner(*square) * 2)
    return torch.where(found > view.size, view.size - INSIDE, found.clamp(min=0))


def nine(objects: Objects, width: int, height: int, view: CentreCropView, mapping: str) -> tuple[int, Float[Tensor, "9 2"]]:
    """Return the index of the object that an image of width x height px counts for, and its nine points (x, y) in its view.

    mapping: "right" chooses the largest box and then follows the image; "clipped" maps and clips all boxes, and then chooses the
    largest. Where none counts (in the whole image, or among those that reach into the crop), it is the first that is no crowd.
    """
    boxes = torch.tensor(objects.boxes)
    if mapping == "clipped":
        boxes = clipped(boxes, width, height, view)
    place = largest(replace(objects, boxes=boxes.numpy()))
    place = int((~objects.crowd).argmax()) if place is None else place
    where = points(boxes[place])
    return place, where if mapping == "clipped" else seen(where, width, height, view)


def patches(where: Float[Tensor, "n 2"], stride: int, grid: tuple[int, int]) -> Int[Tensor, "n"]:
    """The patch, numbered row by row, that each point (x, y) of a view lies in; from outside, the nearest one at the border.

    grid: rows and columns of patches, `stride` px wide and high.
    """
    column, row = (where / stride).floor().long().unbind(-1)
    return row.clamp(0, grid[0] - 1) * grid[1] + column.clamp(0, grid[1] - 1)
