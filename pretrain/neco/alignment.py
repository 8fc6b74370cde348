"""The part of an image that two views share, cut out of the patches of each view and resampled to a fixed size.

He, Gkioxari, Dollár, Girshick: Mask R-CNN, ICCV 2017 (RoIAlign), as NeCo and Leopart use it on patch tokens. There is one
axis-aligned box per image, so bilinear sampling is a product: weights of rows times tokens times weights of columns. That takes
two matrix products per batch, is differentiable and never reads the boxes back from a GPU. `densebench.numerics.roi_align` takes
any number of regions per map and gives the numbers of torchvision's kernel, also where regions reach outside of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from densebench.numerics.device_copy import on_device

ROUNDING = 1e-4  # cells: a box of 7 cells that rounding made a little longer still has one sample per cell


def align(
    tokens: Float[Tensor, "b rows columns d"], boxes: Float[Tensor, "b 4"], size: int, *, inside: bool = False
) -> Float[Tensor, "b size size d"]:
    """Return the mean of bilinear samples in each of size x size bins of one box per image.

    boxes: top, left, height, width in cells; cell (0, 0) covers [0, 1] x [0, 1] and has its value at its middle. A bin has
    ceil(height / size) x ceil(width / size) samples, at least one, evenly spaced. A sample more than half a cell outside of the
    grid counts as 0, one closer to it takes the value at the border. inside: promises that no box is larger than the grid, so
    that the number of samples is known without reading the boxes back from a GPU.
    """
    top, left, height, width = boxes.to(tokens.dtype).unbind(1)
    most = [-(-cells // size) for cells in tokens.shape[1:3]] if inside else [None, None]
    down = sampling_weights(top, height, size, tokens.shape[1], most[0]).to(tokens.device)
    across = sampling_weights(left, width, size, tokens.shape[2], most[1]).to(tokens.device)
    rows = torch.bmm(down, tokens.flatten(2)).unflatten(2, tokens.shape[2:])
    return torch.matmul(across[:, None], rows)


def sampling_weights(
    start: Float[Tensor, " b"], length: Float[Tensor, " b"], size: int, cells: int, most: int | None = None
) -> Float[Tensor, "b size cells"]:
    """Return the weight of each cell of a line in each of `size` bins of [start, start + length): rows sum to 1 inside the line.

    most: the largest number of samples in a bin; None: computed from the lengths.
    """
    counts = (length / size - ROUNDING).ceil().clamp(min=1)
    if most is None:
        most = int(counts.max()) if len(counts) else 1
    number = torch.arange(most, device=start.device)
    bins = torch.arange(size, device=start.device)[:, None]
    at = start[:, None, None] + (bins + (number + 0.5) / counts[:, None, None]) * (length / size)[:, None, None] - 0.5
    used = (number < counts[:, None, None]) & (at >= -1) & (at <= cells)
    at = at.clamp(0, cells - 1)
    near = (1 - (at[..., None] - torch.arange(cells, device=start.device)).abs()).clamp(min=0)
    return (near * used[..., None]).sum(dim=2) / counts[:, None, None]


class Pair(NamedTuple):
    """The part of every image that global view g and another view v share: its box in cells of each, and whether it exists."""

    g: int
    v: int
    boxes: tuple[Float[Tensor, "b 4"], Float[Tensor, "b 4"]]
    exists: Bool[Tensor, " b"]


def shared_parts(
    crops: Sequence[Float[Tensor, "b 4"]], grids: Sequence[tuple[int, int]], first: Sequence[int], device: torch.device
) -> list[Pair]:
    """Return what each view of `first` shares with every other view.

    crops: the views' top, left, height, width in px of the image, on the CPU. grids: rows and columns of their patches.
    """
    numbers = [(g, v) for g in first for v in range(len(grids)) if v != g]
    shared = [overlaps(crops[g], crops[v], grids[g], grids[v]) for g, v in numbers]
    boxes = on_device(torch.stack([torch.stack(both) for both, _ in shared]), device)
    exist = on_device(torch.stack([exists for _, exists in shared]), device)
    return [Pair(g, v, (both[0], both[1]), exists) for (g, v), both, exists in zip(numbers, boxes, exist, strict=True)]


def overlaps(
    one: Float[Tensor, "b 4"], other: Float[Tensor, "b 4"], grid: tuple[int, int], other_grid: tuple[int, int]
) -> tuple[tuple[Float[Tensor, "b 4"], Float[Tensor, "b 4"]], Bool[Tensor, " b"]]:
    """Return the part of an image that two crops share, as a box in the cells of each crop's grid, and whether there is one.

    one, other: top, left, height, width of the crops in px of the image, neither mirrored.
    """
    start = torch.maximum(one[:, :2], other[:, :2])
    end = torch.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    exists = (end > start).all(dim=1)
    length = (end - start).clamp(min=0)
    boxes = []
    for crop, cells in ((one, grid), (other, other_grid)):
        scale = crop.new_tensor(cells) / crop[:, 2:]
        boxes.append(torch.cat([(start - crop[:, :2]) * scale, length * scale], dim=1))
    return (boxes[0], boxes[1]), exists
