"""Crops: which part of an image a view shows, drawn as five numbers, cut out as two matrix products, and where its patches are.

Source: random resized crops of DINO's official code; positions of patches as CrOC and CrIBo use them (CrOC, section 3.3.2),
in closed form instead of a resized map of pixel indices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

CHUNK_BYTES = 128 * 2**20  # of float images at once

KERNELS = {"bilinear": 1.0, "bicubic": 2.0}
"""Resampling filters and the half-width of their support, in pixels of the smaller scale."""


def patch_positions(
    boxes: Float[Tensor, "b 4"], flips: Bool[Tensor, " b"], grid: tuple[int, int]
) -> Float[Tensor, "b patches 2"]:
    """Where the centre of each patch lies in the original image: x and y in pixels, row by row.

    boxes: top, left, height, width of the crop. Pixel (0, 0) of the image has its centre at x = 0, y = 0.
    """
    top, left, height, width = boxes.unbind(1)
    rows, columns = grid
    down = (torch.arange(rows, device=boxes.device) + 0.5) / rows
    across = ((torch.arange(columns, device=boxes.device) + 0.5) / columns).expand(len(boxes), -1)
    across = torch.where(flips[:, None], across.flip(1), across)
    y = top[:, None] + height[:, None] * down - 0.5
    x = left[:, None] + width[:, None] * across - 0.5
    return torch.stack([x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], dim=3).flatten(1, 2)


def resampling_weights(
    start: Float[Tensor, " b"], length: Float[Tensor, " b"], size: int, extent: int, kernel: str
) -> Float[Tensor, "b size extent"]:
    """How much each of `extent` source pixels gives to each of `size` output pixels, for a crop [start, start + length).

    The antialiased filters of Pillow: the kernel is stretched where the image shrinks, and pixels outside the crop do not
    exist. Rows sum to 1.
    """
    scale = (length / size)[:, None, None]
    centre = (torch.arange(size, device=start.device) + 0.5)[None, :, None] * scale + start[:, None, None]
    pixel = torch.arange(extent, device=start.device)[None, None, :] + 0.5
    weights = _filter((pixel - centre) / scale.clamp(min=1.0), kernel)
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(dim=2, keepdim=True)


def _filter(x: Tensor, kernel: str) -> Tensor:
    """The triangle (bilinear), or Keys' cubic with a = -1/2 (bicubic)."""
    x = x.abs()
    if kernel == "bilinear":
        return (1 - x).clamp(min=0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resized_crops(
    images: UInt8[Tensor, "b 3 h w"],
    boxes: Float[Tensor, "b 4"],
    flips: Bool[Tensor, " b"],
    size: int,
    kernel: str = "bicubic",
) -> Float[Tensor, "b 3 size size"]:
    """Cut boxes (top, left, height, width) out of padded images, resize them to a square and mirror some; values in 0..1.

    Equal to cropping, resizing with Pillow's antialiased filter and flipping, but for Pillow's rounding to bytes after each
    pass. On a GPU the whole batch is two matrix products; on the CPU, where most of their zeros would cost time, it is one
    image after the other.
    """
    if images.device.type == "cpu" and bool((boxes == boxes.round()).all()):
        return _one_by_one(images, boxes, flips, size, kernel)
    return matrix_crops(images, boxes, flips, size, kernel)


def _one_by_one(images: Tensor, boxes: Tensor, flips: Tensor, size: int, kernel: str) -> Tensor:
    parts = []
    for image, (top, left, height, width), flip in zip(images, boxes.long().tolist(), flips.tolist(), strict=True):
        part = image[None, :, top : top + height, left : left + width].float().div_(255)
        part = F.interpolate(part, (size, size), mode=kernel, antialias=True, align_corners=False)
        parts.append(part.flip(3) if flip else part)
    return torch.cat(parts).clamp_(0, 1)


def matrix_crops(
    images: UInt8[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 4"], flips: Bool[Tensor, " b"], size: int, kernel: str
) -> Float[Tensor, "b 3 size size"]:
    """`resized_crops` as products with banded matrices, with no look at the boxes' values."""
    rows = max(1, CHUNK_BYTES // (12 * images.shape[2] * images.shape[3]))
    parts = []
    for chunk, box, flip in zip(images.split(rows), boxes.split(rows), flips.split(rows), strict=True):
        top, left, height, width = box.unbind(1)
        down = resampling_weights(top, height, size, images.shape[2], kernel)
        across = resampling_weights(left, width, size, images.shape[3], kernel)
        across = torch.where(flip[:, None, None], across.flip(1), across)
        pixels = chunk.float().div_(255)
        narrow = torch.bmm(pixels.flatten(1, 2), across.transpose(1, 2)).unflatten(1, (3, -1))
        parts.append(torch.matmul(down[:, None], narrow).clamp_(0, 1))
    return torch.cat(parts)
