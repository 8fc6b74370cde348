"""RoI align in plain torch, which replaces torchvision's compiled operator on machines where that cannot load.

He et al., Mask R-CNN, ICCV 2017. The numbers are those of torchvision's kernel. torchvision's own path in Python needs a C++
compiler and half a minute of compilation, or memory for every pixel of the map at every bin, and it counts samples outside the
map, which the kernel leaves out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy

ENTRIES = 2**22  # samples or pixels at once; bounds the memory and changes nothing else
GATHERING = 8  # what reading one sample costs, in multiplications of a matrix product


def align(
    features: Float[Tensor, "n c h w"],
    regions: Float[Tensor, "k 5"],
    scale: float,
    size: tuple[int, int],
    sampling: int,
    aligned: bool,
) -> Float[Tensor, "k c rows columns"]:
    """Return features of regions: in each of rows x columns bins the mean of bilinear samples.

    regions: which map, then left, top, right, bottom in units of 1 / scale cells. sampling: samples a side of a bin; 0 or less:
    as many as the bin has cells, rounded up. aligned: cell centres lie at halves; otherwise at whole numbers, and regions are
    at least one cell large. Carries a gradient to the features alone.
    """
    if not len(regions):
        return features.new_zeros(0, features.shape[1], *size) + 0 * features.sum()
    kind = torch.promote_types(features.dtype, torch.float32)  # half precision would misplace the samples
    maps, regions = features.to(kind), regions.detach().to(kind)
    low = regions[:, [2, 1]] * scale - 0.5 * aligned
    span = regions[:, [4, 3]] * scale - 0.5 * aligned - low
    span = span if aligned else span.clamp(min=1)
    bins = on_device(torch.tensor(size), span.device)
    counts = torch.full_like(span, sampling) if sampling > 0 else (span / bins).ceil()
    order = counts.prod(dim=1).argsort(stable=True)  # regions of few samples do not wait for those of many
    known = HostCopy(counts[order]).value()  # the only wait for a GPU
    pooled, start = [], 0
    while start < len(order):
        number = _together(known[start:], size)
        piece, most = order[start : start + number], known[start : start + number].amax(0).long().tolist()
        rows, columns = (
            samples(low[piece, axis], span[piece, axis], counts[piece, axis], size[axis], maps.shape[2 + axis], most[axis])
            for axis in (0, 1)
        )
        pooled.append(_pooled(maps, regions[piece, 0].long(), rows, columns))
        start += len(piece)
    return torch.cat(pooled)[order.argsort()].to(features.dtype)


def _together(counts: Tensor, size: tuple[int, int]) -> int:
    """Return how many of the next regions, ordered by their number of samples, fit into ENTRIES."""
    needed = (counts.cummax(dim=0).values.clamp(min=1) * 2).prod(dim=1) * size[0] * size[1]
    number = torch.arange(1, len(counts) + 1, device=counts.device)
    return max(1, int((needed * number <= ENTRIES).sum()))


def samples(
    low: Float[Tensor, "k"], span: Float[Tensor, "k"], counts: Float[Tensor, "k"], bins: int, extent: int, most: int
) -> tuple[Int[Tensor, "k bins s"], Float[Tensor, "k bins s"]]:
    """Return the cells that the samples of each bin read along one axis, and their weights, which sum to 1 inside the map.

    Each sample reads two neighbouring cells. One that is more than a cell outside of 0 .. extent weighs nothing. most: the
    greatest of `counts`.
    """
    number = torch.arange(max(1, most), device=low.device)
    step = (span / bins)[:, None, None]
    share = (number + 0.5) / counts.clamp(min=1)[:, None, None]
    at = low[:, None, None] + (torch.arange(bins, device=low.device)[:, None] + share) * step
    weight = (number < counts[:, None, None]) & (at >= -1) & (at <= extent)
    near = at.clamp(0, extent - 1)
    cell = near.floor().clamp(max=max(extent - 2, 0))
    beyond = near - cell
    weights = torch.cat([1 - beyond, beyond], dim=2) * weight.repeat(1, 1, 2) / counts.clamp(min=1)[:, None, None]
    cells = cell.long()
    return torch.cat([cells, (cells + 1).clamp(max=extent - 1)], dim=2), weights


def _pooled(maps: Tensor, which: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    """Return sums of weighted samples, read one by one, or as matrix products over the whole map where that is less work."""
    height, width = maps.shape[2:]
    (_, down, many), (_, across, more) = rows[0].shape, columns[0].shape
    if down * width * (height + across) < GATHERING * down * across * many * more:
        return _multiplied(maps, which, rows, columns)
    index = rows[0][:, :, None, :, None] * width + columns[0][:, None, :, None, :]
    weight = rows[1][:, :, None, :, None] * columns[1][:, None, :, None, :]
    index = index + which[:, None, None, None, None] * height * width
    table = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    bags = F.embedding_bag(index.reshape(-1, many * more), table, per_sample_weights=weight.reshape(-1, many * more), mode="sum")
    return bags.view(len(which), down, across, -1).permute(0, 3, 1, 2)


def _multiplied(maps: Tensor, which: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    left, right = (
        maps.new_zeros(*cells.shape[:2], extent).scatter_add_(2, cells, weights)
        for (cells, weights), extent in ((rows, maps.shape[2]), (columns, maps.shape[3]))
    )
    some = max(1, ENTRIES // maps[0].numel())
    parts = zip(which.split(some), left.split(some), right.split(some), strict=True)
    return torch.cat([down[:, None] @ maps[index] @ across[:, None].mT for index, down, across in parts])
