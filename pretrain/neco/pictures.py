"""Pictures of NeCo: a patch in two views, each beside the patches of other images in the order of similarity to it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from densebench.pictures.canvas import row
from densebench.training.pictures import RIGHT, SIDE, bytes_of, framed

NEAREST = 6
MARGIN = 1.0  # cells that are shown on each side of a patch


class Shown(NamedTuple):
    """One view of every image: its pixels, the shared part (top, left, height, width in cells), and its aligned patches'
    similarities.

    similarities: to all n patches of the first views of all c images.
    """

    pixels: Float[Tensor, "b 3 s s"]
    boxes: Float[Tensor, "b 4"]
    similarities: Float[Tensor, "b p c n"]


def neighbours_picture(shown: list[Shown], firsts: Float[Tensor, "c 3 s s"], grid: tuple[int, int], size: int) -> Image.Image:
    """Return two rows per image, one for each view: the view with the patch framed, then the nearest patches of other images.

    A patch that is among the nearest in both views has a green frame.
    """
    pictures = [bytes_of(pixels) for pixels in firsts]
    rows = []
    for number in range(len(firsts)):
        query = size * size // 2
        nearest = [_nearest(view.similarities[number, query], number) for view in shown]
        for view, patches, others in zip(shown, nearest, reversed(nearest), strict=True):
            cell = _cell(view.boxes[number], query, size)
            parts = [_marked(bytes_of(view.pixels[number]), cell, grid)]
            for index in patches:
                image, patch = divmod(index, grid[0] * grid[1])
                part = _patch(pictures[image], (patch // grid[1], patch % grid[1]), grid)
                parts.append(framed(part, RIGHT) if index in others else part)
            rows.append(row(parts, gap=4))
    return row(rows, gap=4, down=True)


def _nearest(similarities: Float[Tensor, "c n"], image: int) -> list[int]:
    """Return the flat indices of the nearest patches, of other images only (unless there is no other image)."""
    others = torch.arange(len(similarities), device=similarities.device) != image
    indices = torch.arange(similarities.numel()).view(similarities.shape)
    if len(similarities) > 1:
        similarities, indices = similarities[others], indices[others.cpu()]
    best = similarities.flatten().topk(min(NEAREST, similarities.numel())).indices.cpu()
    return indices.flatten()[best].tolist()


def _cell(box: Tensor, query: int, size: int) -> tuple[float, float, float, float]:
    """Return top, left, height, width of an aligned patch, in cells of its view."""
    top, left, height, width = box.tolist()
    return top + query // size * height / size, left + query % size * width / size, height / size, width / size


def _marked(pixels: np.ndarray, cell: tuple[float, float, float, float], grid: tuple[int, int]) -> Image.Image:
    """Return a view with a frame around a part."""
    top, left, height, width = cell
    y, x = top * SIDE / grid[0], left * SIDE / grid[1]
    high, wide = max(height * SIDE / grid[0], 6), max(width * SIDE / grid[1], 6)
    mask = np.zeros(pixels.shape[:2], bool)
    mask[max(int(y) - 3, 0) : int(y + high) + 3, max(int(x) - 3, 0) : int(x + wide) + 3] = True
    mask[max(int(y), 0) : int(y + high), max(int(x), 0) : int(x + wide)] = False
    shown = pixels.copy()
    shown[mask] = RIGHT
    return Image.fromarray(shown)


def _patch(pixels: np.ndarray, cell: tuple[int, int], grid: tuple[int, int]) -> Image.Image:
    """Return a patch with MARGIN cells around it, enlarged."""
    high, wide = SIDE / grid[0], SIDE / grid[1]
    top, left = cell[0] * high, cell[1] * wide
    box = (
        max(left - MARGIN * wide, 0), max(top - MARGIN * high, 0),
        min(left + (1 + MARGIN) * wide, SIDE), min(top + (1 + MARGIN) * high, SIDE),
    )  # fmt: skip
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
