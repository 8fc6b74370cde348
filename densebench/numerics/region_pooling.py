"""Region alignment: the features of any part of a view, at a fixed size.

He, Gkioxari, Dollár, Girshick: Mask R-CNN, ICCV 2017 (RoIAlign), as NeCo and Leopart use it on patch tokens. Bilinear sampling
of an upright box is a product: weights of rows times tokens times weights of columns. So a batch is two matrix products.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROUNDING = 1e-4  # cells: a box of 7 cells that arithmetic made a little longer has still one sample a cell


def align(
    tokens: Float[Tensor, "b rows columns d"], boxes: Float[Tensor, "b 4"], size: int, *, inside: bool = False
) -> Float[Tensor, "b size size d"]:
    """The mean of bilinear samples in each of size x size bins of one box an image.

    boxes: top, left, height, width in cells; cell (0, 0) covers [0, 1] x [0, 1] and has its value at its middle. A bin has
    ceil(height / size) x ceil(width / size) samples, one at least, evenly spaced; a sample more than half a cell outside
    the grid counts 0, one closer to it takes the border's value. inside: no box is larger than the grid; then the boxes'
    values need not be looked at, and a GPU is not waited for.
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
    """How much each cell of a line gives to each of `size` bins of [start, start + length): rows sum to 1 inside the line.

    most: no bin has more samples; none: they are counted.
    """
    counts = (length / size - ROUNDING).ceil().clamp(min=1)
    if most is None:
        most = int(counts.max()) if len(counts) else 1
    number = torch.arange(most, device=start.device)
    bins = torch.arange(size, device=start.device)[:, None]
    places = start[:, None, None] + (bins + (number + 0.5) / counts[:, None, None]) * (length / size)[:, None, None] - 0.5
    used = (number < counts[:, None, None]) & (places >= -1) & (places <= cells)
    places = places.clamp(0, cells - 1)
    near = (1 - (places[..., None] - torch.arange(cells, device=start.device)).abs()).clamp(min=0)
    return (near * used[..., None]).sum(dim=2) / counts[:, None, None]


def overlaps(
    one: Float[Tensor, "b 4"], other: Float[Tensor, "b 4"], grid: tuple[int, int], other_grid: tuple[int, int]
) -> tuple[tuple[Float[Tensor, "b 4"], Float[Tensor, "b 4"]], Bool[Tensor, " b"]]:
    """The part of an image that two crops share, as a box in the cells of each crop's grid, and whether there is one.

    one, other: top, left, height, width of the crops in px of the image, neither mirrored.
    """
    start = torch.maximum(one[:, :2], other[:, :2])
    end = torch.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    there = (end > start).all(dim=1)
    length = (end - start).clamp(min=0)
    found = []
    for crop, cells in ((one, grid), (other, other_grid)):
        scale = crop.new_tensor(cells) / crop[:, 2:]
        found.append(torch.cat([(start - crop[:, :2]) * scale, length * scale], dim=1))
    return (found[0], found[1]), there
