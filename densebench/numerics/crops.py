"""Crops: a view's part of an image is a box and a flip; it is cut out of images of any size by two matrix products, and the
positions of its patches are computed.

Source: random resized crops of DINO's official code; positions of patches as CrOC and CrIBo use them (CrOC, section 3.3.2),
in closed form instead of a resized map of pixel indices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

CHUNK_BYTES = 512 * 2**20  # of float images at once


@dataclass(frozen=True)
class Pictures:
    """Images of different sizes without padding: their bytes, one image after the other.

    buffers: parts of the bytes, in order. layout: for each image the index of its first byte, and the strides in bytes of its
    channels, rows and columns; on the CPU.
    """

    buffers: tuple[UInt8[Tensor, "_"], ...]
    layout: Int[Tensor, "b 4"]

    @classmethod
    def of(cls, images: Sequence[UInt8[np.ndarray, "_ _ _"]], interleaved: bool = False) -> Pictures:
        """Return images `[h w c]` copied into one buffer: planar, as a CPU resizes them fastest, or `interleaved`.

        Interleaved means that the channels of a pixel are neighbours: a GPU then needs a third of the indices (`stack`).
        """
        ends = np.cumsum([image.size for image in images])
        data = np.empty(int(ends[-1]), np.uint8)
        layout = []
        for image, end in zip(images, ends.tolist(), strict=True):
            height, width, channels = image.shape
            part, start = data[end - image.size : end], end - image.size
            if interleaved:
                part.reshape(image.shape)[...] = image
            else:
                part.reshape(channels, height, width)[...] = image.transpose(2, 0, 1)
            layout.append((start, 1, channels * width, channels) if interleaved else (start, height * width, width, 1))
        return cls((torch.from_numpy(data),), torch.tensor(layout))

    @classmethod
    def join(cls, parts: Sequence[Pictures]) -> Pictures:
        """Return the images of all parts, in order; no byte is copied."""
        starts = np.cumsum([0, *(part.nbytes for part in parts)]).tolist()
        layouts = [part.layout + torch.tensor([start, 0, 0, 0]) for part, start in zip(parts, starts, strict=False)]
        return cls(tuple(buffer for part in parts for buffer in part.buffers), torch.cat(layouts))

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the images take."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def pin_memory(self) -> Pictures:
        """Return the images in page-locked memory, from which a GPU copies without a wait.

        A loader with `pin_memory=True` calls this.
        """
        return Pictures(tuple(buffer.pin_memory() for buffer in self.buffers), self.layout)

    def to(self, device: torch.device) -> Pictures:
        """Return the images in one buffer on a device. The host does not wait for copies out of page-locked memory."""
        if len(self.buffers) == 1:
            return Pictures((self.buffers[0].to(device, non_blocking=True),), self.layout)
        data, end = torch.empty(self.nbytes, dtype=torch.uint8, device=device), 0
        for buffer in self.buffers:
            data[end : (end := end + len(buffer))].copy_(buffer, non_blocking=True)
        return Pictures((data,), self.layout)

    def cut(self, boxes: Float[Tensor, "b 4"]) -> Iterator[UInt8[Tensor, "1 3 _ _"]]:
        """Yield the part of each image that its box (top, left, height, width; whole pixels) shows, as a view: no byte is copied.

        The images must lie in one buffer (`to`), on the CPU. For a GPU there is `stack`.
        """
        [data] = self.buffers
        starts = self.starts(boxes[:, :2].long()).tolist()
        for first, (_, *steps), (height, width) in zip(starts, self.layout.tolist(), boxes[:, 2:].long().tolist(), strict=True):
            yield data.as_strided((1, 3, height, width), (0, *steps), first)

    def starts(self, corners: Int[Tensor, "b 2"]) -> Int[Tensor, " b"]:
        """Return the index of the first byte of a pixel (top, left) of each image; on the CPU."""
        start, _, row, column = self.layout.unbind(1)
        return start + corners[:, 0] * row + corners[:, 1] * column


def chunks(heights: Sequence[int], widths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges of images (first, last + 1) that take at most CHUNK_BYTES in float32, padded to the largest in the range."""
    begin, high, wide = 0, 0, 0
    for number, (height, width) in enumerate(zip(heights, widths, strict=True)):
        high, wide = max(high, height), max(wide, width)
        if number > begin and 12 * high * wide * (number + 1 - begin) > CHUNK_BYTES:
            yield begin, number
            begin, high, wide = number, height, width
    yield begin, len(heights)


def stack(
    data: UInt8[Tensor, " _"],
    starts: Int[Tensor, " b"],
    steps: Int[Tensor, "b 3"],
    sides: Int[Tensor, "b 2"],
    shape: tuple[int, int],
    interleaved: bool,
) -> UInt8[Tensor, "b 3 _ _"]:
    """Return parts of images, cut out of one buffer and padded to `shape` (height, width) at the bottom and the right.

    Padding repeats a part's last row and column. sides: height and width of each part. starts: the index of its first byte.
    steps: the strides in bytes of its channels, rows and columns. interleaved: whether the three channels of a pixel are
    neighbours, so that they share an index. All tensors are on one device, for which the host does not wait.
    """
    high, wide = (torch.arange(side, device=data.device) for side in shape)
    down = torch.minimum(high, sides[:, :1] - 1) * steps[:, 1:2]
    across = torch.minimum(wide, sides[:, 1:] - 1) * steps[:, 2:]
    index = (starts[:, None] + down)[:, :, None] + across[:, None]
    if interleaved:
        pixels = data.as_strided((len(data) - 2, 3), (1, 1))[index]
    else:
        pixels = data[index[..., None] + steps[:, None, None, :1] * torch.arange(3, device=data.device)]
    return pixels.permute(0, 3, 1, 2)


def patch_positions(
    boxes: Float[Tensor, "b 4"], flips: Bool[Tensor, " b"], grid: tuple[int, int]
) -> Float[Tensor, "b patches 2"]:
    """Return the centre of each patch in the original image: x and y in pixels, row by row.

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
    start: Float[Tensor, " b"],
    length: Float[Tensor, " b"],
    size: int,
    extent: int,
    kernel: str,
    flips: Bool[Tensor, " b"] | None = None,
) -> Float[Tensor, "b size extent"]:
    """Return the weight of each of `extent` source pixels in each of `size` output pixels, for a crop [start, start + length).

    The antialiased filters of Pillow: the kernel is stretched where the image shrinks, and pixels outside the crop do not
    exist. Rows sum to 1; flips: in which crops they are in reverse order. Weights are computed only where they may differ from 0:
    the crop must lie in the extent.
    """
    output = torch.arange(size, device=start.device) + 0.5
    if flips is not None:
        output = torch.where(flips[:, None], size - output, output)
    scale = (length / size)[:, None]
    centre = output * scale + start[:, None]
    stretch, reach = scale.clamp(min=1.0), 1 if kernel == "bilinear" else 2
    taps = min(extent, math.ceil(2 * reach * max(1.0, extent / size)) + 2)
    first = (centre - reach * stretch).floor().clamp(min=0, max=extent - taps)
    number = first[:, :, None] + torch.arange(taps, device=start.device)
    pixel = number + 0.5
    weights = _filter((pixel - centre[:, :, None]) / stretch[:, :, None], kernel)
    weights = weights * ((pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None]))
    total = weights.sum(dim=2, keepdim=True, dtype=torch.float64)  # rounded once: equal for any number of zeros among the taps
    return weights.new_zeros(len(start), size, extent).scatter_(2, number.long(), weights / total.float())


def _filter(x: Tensor, kernel: str) -> Tensor:
    """Return the triangle (bilinear), or Keys' cubic with a = -1/2 (bicubic)."""
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
    """Return boxes (top, left, height, width) of padded images, resized to a square, some mirrored; values in 0..1.

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
        part = image[None, :, top : top + height, left : left + width]
        part = part.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        part = F.interpolate(part, (size, size), mode=kernel, antialias=True, align_corners=False)
        parts.append(part.flip(3) if flip else part)
    return torch.cat(parts).clamp_(0, 1)


def matrix_crops(
    images: UInt8[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 4"], flips: Bool[Tensor, " b"], size: int, kernel: str
) -> Float[Tensor, "b 3 size size"]:
    """Return `resized_crops` as products with banded matrices, without reading the boxes' values."""
    height, width = images.shape[2:]
    rows = max(1, CHUNK_BYTES // (12 * height * width))
    parts = []
    for chunk, box, flip in zip(images.split(rows), boxes.split(rows), flips.split(rows), strict=True):
        starts, lengths = box[:, :2].T.flatten(), box[:, 2:].T.flatten()  # the upper ends of all crops, then the left ones
        mirrored = torch.cat([torch.zeros_like(flip), flip])
        weights = resampling_weights(starts, lengths, size, max(height, width), kernel, mirrored)
        down, across = weights[: len(chunk), :, :height], weights[len(chunk) :, :, :width] / 255
        pixels = chunk.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)  # [b h 3 w]
        narrow = torch.bmm(pixels.flatten(1, 2), across.transpose(1, 2)).unflatten(1, (height, 3)).flatten(2)
        parts.append(torch.bmm(down, narrow).clamp_(0, 1).unflatten(2, (3, size)).permute(0, 2, 1, 3))
    return parts[0] if len(parts) == 1 else torch.cat(parts)
