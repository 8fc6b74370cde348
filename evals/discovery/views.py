"""How pictures reach the backbone: at their own size, padded to whole patches, or resized to the nearest whole patches."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.features.views import View, to_tensor


@dataclass(frozen=True)
class Padded(View):
    """A picture at its own size, padded at the right and at the bottom to multiples of the stride.

    fill: the colour of the padding, the mean that the backbone subtracts: after normalisation the padding is exactly 0.
    """

    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def fit(self, side: int) -> int:
        """Return the least multiple of the stride that holds a side."""
        return math.ceil(side / self.stride) * self.stride

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the pixels of the image: part of the key of cached features."""
        return {"fit": "padded", **asdict(self)}

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 h w"]:
        """Return the view of an RGB image, float32 in 0..1."""
        pixels = to_tensor(image)
        padded = torch.tensor(self.fill)[:, None, None].expand(3, *self.shape(*image.size)).clone()
        padded[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return padded


@dataclass(frozen=True)
class Resized(View):
    """A picture resized by Pillow's Lanczos filter to the nearest multiples of the stride; ties go to the even multiple."""

    def fit(self, side: int) -> int:
        """Return the multiple of the stride nearest to a side, one stride at least."""
        return max(1, round(side / self.stride)) * self.stride

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the pixels of the image: part of the key of cached features."""
        return {"fit": "lanczos", **asdict(self)}

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 h w"]:
        """Return the view of an RGB image, float32 in 0..1."""
        return to_tensor(image.resize(self.shape(*image.size)[::-1], Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class Patches:
    """The patches of a picture that take part: rows and columns from the upper left one, and the px that each of them covers.

    width, height: of the picture, px; down, across: of a patch, in px of the picture.
    """

    width: int
    height: int
    rows: int
    columns: int
    down: float
    across: float


def view_of(fit: str, backbone: Backbone) -> View:
    """Return the view of pictures: "pad" or "lanczos". Features made finer have a stride that is a part of the network's own."""
    return Padded(backbone.multiple, fill=backbone.mean) if fit == "pad" else Resized(backbone.multiple)


def patches_of(view: View, stride: int, width: int, height: int, padded: str) -> Patches:
    """Return the patches of a picture of `width` x `height` px, one for every `stride` px of its view.

    padded: whether the patches that hold padding are "left-out" or "kept".
    """
    rows, columns = (side // stride for side in view.shape(width, height))
    if isinstance(view, Resized):
        return Patches(width, height, rows, columns, height / rows, width / columns)
    if padded == "left-out":
        rows, columns = height // stride, width // stride
    return Patches(width, height, rows, columns, float(stride), float(stride))
