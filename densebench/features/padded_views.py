"""Views of whole images at their own aspect, padded, or squashed; and where the pixels of an image come to lie in them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from densebench.features.views import to_tensor

Fit = Literal["longer-side", "square-corner", "square-centre", "squash"]
Resample = Literal["bilinear", "pillow-bilinear", "bicubic", "lanczos"]
Colour = tuple[float, float, float]
PILLOW = {
    "pillow-bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Placement:
    """Where an image lies: its point (x, y) lies `corner` + `scale` * (x, y) px from the corner of the frame.

    The frame is what is resized or filled to the wanted size; it lies `offset` px from the corner of the view, whose further
    pixels only fill it up to a multiple of the stride. All pairs are x, y: of factors, px, px, px, px and px.
    image: the size of the original image. frame, view: the sizes of the frame and of the view.
    """

    scale: tuple[float, float]
    corner: tuple[int, int]
    offset: tuple[int, int]
    image: tuple[int, int]
    frame: tuple[int, int]
    view: tuple[int, int]


@dataclass(frozen=True)
class PaddedView:
    """An image as a frame of `size` px, filled up with the colour `edge` to a multiple of `stride`.

    fit, how the image becomes the frame:
    - longer-side: the longer side becomes `size`, the other one is rounded; filled up at the right and at the bottom.
    - square-corner: `colour` makes it a square at the right and at the bottom, which is resized; filled up on all sides.
    - square-centre: the longer side becomes `size`, and `colour` on both sides makes it a square.
    - squash: both sides become `size`.
    The last two are not filled up: `size` must be a multiple of the stride.
    resample: "bilinear" is antialiased, on float tensors; all others are Pillow's, on bytes. mirrored: left is right.
    """

    stride: int
    size: int
    fit: Fit = "longer-side"
    resample: Resample = "bilinear"
    colour: Colour = (0.0, 0.0, 0.0)
    edge: Colour = (0.0, 0.0, 0.0)
    mirrored: bool = False

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and width of the view of an image."""
        columns, rows = self.placement(width, height).view
        return rows, columns

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the pixels of the image: part of the key of cached features."""
        return {"padded": 1, **asdict(self)}

    def placement(self, width: int, height: int) -> Placement:
        """Return where an image of this size lies in its view."""
        size, image, longer, none = self.size, (width, height), max(width, height), (0, 0)
        square = (size, size)
        if self.fit == "squash":
            return Placement((size / width, size / height), none, none, image, square, self._filled(square))
        if self.fit == "square-corner":
            view = self._filled(square)
            offset = ((view[0] - size) // 2, (view[1] - size) // 2)
            return Placement((size / longer, size / longer), none, offset, image, square, view)
        inner = self._inner(width, height)
        if self.fit == "square-centre":
            corner = ((size - inner[0]) // 2, (size - inner[1]) // 2)
            return Placement((size / longer, size / longer), corner, none, image, square, self._filled(square))
        return Placement((inner[0] / width, inner[1] / height), none, none, image, inner, self._filled(inner))

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 h w"]:
        """Return the view of an RGB image, float32 in 0..1."""
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        placed = self.placement(*image.size)
        pixels = self._frame(image, placed)
        (columns, rows), (left, top) = placed.view, placed.offset
        if pixels.shape[1:] == (rows, columns):
            return pixels
        filled = torch.tensor(self.edge).view(3, 1, 1).repeat(1, rows, columns)
        filled[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels
        return filled

    def _frame(self, image: Image.Image, placed: Placement) -> Float[Tensor, "3 h w"]:
        if self.fit in ("longer-side", "squash"):
            return self._resized(image, placed.frame)
        if self.fit == "square-corner":
            longer = max(image.size)
            square = Image.new("RGB", (longer, longer), self._bytes())
            square.paste(image, (0, 0))
            return self._resized(square, placed.frame)
        inner = self._resized(image, self._inner(*image.size))
        left, top = placed.corner
        square_pixels = torch.tensor(self.colour).view(3, 1, 1).repeat(1, self.size, self.size)
        square_pixels[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
        return square_pixels

    def _resized(self, image: Image.Image, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
        if self.resample in PILLOW:
            return to_tensor(image.resize(size, PILLOW[self.resample]))
        pixels = to_tensor(image)
        if image.size == size:
            return pixels
        return F.interpolate(pixels[None], size[::-1], mode="bilinear", antialias=True, align_corners=False)[0]

    def _inner(self, width: int, height: int) -> tuple[int, int]:
        """Return the size of the image whose longer side is `size`, the other one rounded, ties to even, as numpy rounds."""
        width, height = (round(self.size * side / max(width, height)) for side in (width, height))
        return max(1, width), max(1, height)

    def _filled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the least multiples of the stride that hold a frame; what must fit as it is stays as it is."""
        if self.fit in ("squash", "square-centre"):
            return size
        width, height = (math.ceil(side / self.stride) * self.stride for side in size)
        return width, height

    def _bytes(self) -> tuple[int, int, int]:
        red, green, blue = (round(255 * value) for value in self.colour)
        return red, green, blue
