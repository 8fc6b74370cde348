"""Views: how an image and its label map become equally sized tensors.

A view is a value: two equal views of one image are equal, bit for bit. Random views (jitter and crop) draw from a generator
that is seeded by the image's own bytes, so that a view can be cached and is the same in every run.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageEnhance
from torch import Tensor

from densebench.errors import UserError

USUAL_HUE = 0.1  # open-hummingbird-eval's, since it was corrected there


class Crop(NamedTuple):
    """A box in pixels: top, left, height, width."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class View:
    """A square of `size` px, or (size None) the image's own shape, each side rounded to a multiple of `stride`.

    stride: px of which sides are multiples: a backbone's `multiple`.

    resample: "bilinear" is antialiased, on float tensors; "bicubic" is PIL's on bytes.
    mask_resample: "nearest-exact" takes the label under the centre of the output pixel; "nearest" the one under its corner,
    as torchvision does to tensors (a shift of up to half a pixel that public code has).
    augment: colour jitter and random resized crop of open-hummingbird (protocols of retrieval), drawn from `epoch` and the image.
    hue: how far the jitter shifts the hue at most; a whole turn is 1.
    """

    stride: int
    size: int | None = None
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    mask_resample: Literal["nearest-exact", "nearest"] = "nearest-exact"
    augment: bool = False
    epoch: int = 0
    hue: float = USUAL_HUE

    def __post_init__(self) -> None:
        if self.size is not None and self.size % self.stride:
            raise UserError(f"a view of {self.size} px is not a multiple of the stride {self.stride}; use {self.fit(self.size)}")

    def fit(self, side: int) -> int:
        """Return the multiple of the stride nearest to a side (ties go up), one stride at least."""
        return max(self.stride, int(side / self.stride + 0.5) * self.stride)

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and width of the view of an image."""
        return (self.size, self.size) if self.size is not None else (self.fit(height), self.fit(width))

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the pixels of the image: part of the key of cached features."""
        return {name: value for name, value in asdict(self).items() if name != "mask_resample"}

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 h w"]:
        """Return the view of an RGB image, float32 in 0..1 (bicubic and jitter work on bytes first, as the reference does)."""
        shape = self.shape(*image.size)
        if self.augment:
            generator = self._generator(digest)
            image, crop = jitter(image, generator, self.hue), random_crop(*image.size, generator)
            image = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        if self.resample == "bicubic":
            return to_tensor(image.resize(shape[::-1], Image.Resampling.BICUBIC))
        pixels = to_tensor(image)
        return pixels if pixels.shape[1:] == shape else _resize(pixels, shape)

    def label(self, label: UInt8[np.ndarray, "h w"], digest: str) -> UInt8[Tensor, "rows columns"]:
        """Return the view of a label map: the same crop as the image's, nearest neighbour. `digest` is the image's."""
        height, width = label.shape
        shape = self.shape(width, height)
        if self.augment:
            generator = self._generator(digest)
            _draw_jitter(generator)
            top, left, height, width = random_crop(width, height, generator)
            label = label[top : top + height, left : left + width]
        pixels = torch.from_numpy(np.ascontiguousarray(label))
        return F.interpolate(pixels[None, None], shape, mode=self.mask_resample)[0, 0]

    def _generator(self, digest: str) -> np.random.Generator:
        return named_generator(f"view {self.epoch} {digest}")


@dataclass(frozen=True)
class CropView:
    """A random part of an image as a square of `size` px, mirrored half of the time, drawn from `key` and the image.

    The crop has 0.8 to 1 of the area and an aspect of 3/4 to 4/3, as Leopart's linear probe takes it.
    """

    size: int
    key: str
    scale: tuple[float, float] = (0.8, 1.0)

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 size size"]:
        """Return the view of an RGB image, float32 in 0..1, antialiased."""
        crop, mirrored = self._draw(*image.size, digest)
        part = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        pixels = _resize(to_tensor(part), (self.size, self.size))
        return pixels.flip(-1) if mirrored else pixels

    def label(self, label: UInt8[np.ndarray, "h w"], digest: str) -> UInt8[Tensor, "size size"]:
        """Return the same part of a label map, nearest neighbour. `digest` is the image's."""
        crop, mirrored = self._draw(label.shape[1], label.shape[0], digest)
        part = label[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        pixels = torch.from_numpy(np.ascontiguousarray(part))
        resized = F.interpolate(pixels[None, None], (self.size, self.size), mode="nearest-exact")[0, 0]
        return resized.flip(-1) if mirrored else resized

    def _draw(self, width: int, height: int, digest: str) -> tuple[Crop, bool]:
        generator = named_generator(f"crop {self.key} {digest}")
        return random_crop(width, height, generator, self.scale), bool(generator.random() < 0.5)


@dataclass(frozen=True)
class CentreCropView:
    """The centre square of `size` px of an image whose short side was resized to `short_side` px, as ImageNet is evaluated.

    Sizes round as torchvision's do: the long side down, the crop's corner to the nearest pixel (ties to even).
    resample: as in `View`.
    """

    size: int = 224
    short_side: int = 256
    resample: Literal["bilinear", "bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        if self.size > self.short_side:
            raise UserError(
                f"a crop of {self.size} px does not fit a short side of {self.short_side} px; use {self.size} or more"
            )

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and width of the view of an image."""
        return self.size, self.size

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the pixels of the image: part of the key of cached features."""
        return {"crop": "centre", **asdict(self)}

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of an image before the crop."""
        short, side = min(width, height), self.short_side
        return int(side * width / short), int(side * height / short)

    def corner(self, width: int, height: int) -> tuple[int, int]:
        """Return the left and top edge of the crop of a resized image of this width and height."""
        return round((width - self.size) / 2), round((height - self.size) / 2)

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 size size"]:
        """Return the view of an RGB image, float32 in 0..1."""
        width, height = self.resized(*image.size)
        left, top = self.corner(width, height)
        if self.resample == "bicubic":
            pixels = to_tensor(image.resize((width, height), Image.Resampling.BICUBIC))
        else:
            pixels = _resize(to_tensor(image), (height, width))
        return pixels[:, top : top + self.size, left : left + self.size]


def named_generator(text: str) -> np.random.Generator:
    """Return a generator seeded by a text, the same on every machine."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])))


def to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    """Return an RGB image as float32 in 0..1."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().div_(255)


def _resize(pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels[None], shape, mode="bilinear", antialias=True, align_corners=False)[0]


def _draw_jitter(generator: np.random.Generator, hue: float = USUAL_HUE) -> list[float | None]:
    """Return random strengths of brightness, contrast, saturation and hue; each is None (left out) with probability 0.5."""
    limits = np.array([0.1, 0.1, 0.1, hue])
    coins, strengths = generator.random(4), generator.uniform(-limits, limits)
    return [float(s) if coin < 0.5 else None for coin, s in zip(coins, strengths, strict=True)]


def jitter(image: Image.Image, generator: np.random.Generator, hue: float = USUAL_HUE) -> Image.Image:
    """Return an image with random colours, each of four changes with probability 0.5.

    Brightness, contrast and saturation are scaled by 0.9..1.1; the hue is shifted by -hue..hue turns.
    """
    brightness, contrast, saturation, turn = _draw_jitter(generator, hue)
    for enhance, strength in (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    ):
        if strength is not None:
            image = enhance(image).enhance(1 + strength)
    if turn is not None:
        channels = list(image.convert("HSV").split())
        turned = (np.asarray(channels[0], dtype=np.int16) + int(turn * 255)) % 256
        channels[0] = Image.fromarray(turned.astype(np.uint8))
        image = Image.merge("HSV", channels).convert("RGB")
    return image


def random_crop(width: int, height: int, generator: np.random.Generator, scale: tuple[float, float] = (0.5, 2.0)) -> Crop:
    """Return a random box of `scale` x the image's area and aspect 3/4 to 4/3; after ten misfits, the largest centred one.

    The default scale is open-hummingbird-eval's: areas above 1 never fit, so that ten draws in a row fail for 15 % of the views
    of 500 x 375 px (which are the whole image then), for 28 % at 500 x 333 (its middle, 444 x 333) and for 6 % of a square.
    """
    smallest, flattest = scale[0], math.log(3 / 4)
    for _ in range(10):
        share, shape = generator.random(2).tolist()
        area = width * height * (smallest + (scale[1] - smallest) * share)
        ratio = math.exp(flattest + (math.log(4 / 3) - flattest) * shape)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1)), h, w)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return Crop((height - h) // 2, (width - w) // 2, h, w)
