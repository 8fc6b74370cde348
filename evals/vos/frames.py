"""Frames of videos as input of a backbone: their size, how they are resized, and the batches in which they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.datasets.dataset import Item
from densebench.datasets.io.loader import Samples, checked, make_loader
from densebench.datasets.videos import Videos
from densebench.errors import UserError
from densebench.features.extract import Normalisation
from densebench.features.views import to_tensor

LONG_SIDE = 64  # with rounding "down" the long side is first rounded down to a multiple of this, px
DINO_STD = (0.228, 0.224, 0.225)


@dataclass(frozen=True)
class FrameSize:
    """The size of resized frames: the short side in px and the rounding of both sides to multiples of the stride."""

    short_side: int
    rounding: str
    stride: int

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Return height and width in px of a resized frame; the short side of a square is its height.

        Raises UserError where a side becomes 0.
        """
        low, high = (width, height) if height > width else (height, width)
        if self.rounding == "up":
            short = math.ceil(self.short_side / self.stride) * self.stride
            long = math.ceil(high * short / low / self.stride) * self.stride
        else:
            short = self.short_side // self.stride * self.stride
            long = int(self.short_side * high / low // LONG_SIDE) * LONG_SIDE // self.stride * self.stride
        if not short or not long:
            least = max(self.stride, LONG_SIDE)
            raise UserError(f"--short-side {self.short_side} leaves no patch of {self.stride} px; give {least} at least")
        return (long, short) if height > width else (short, long)


def resized(image: Image.Image, shape: tuple[int, int], resample: str) -> Float[Tensor, "3 h w"]:
    """Return an RGB frame resized to `shape` (height, width), with values 0..1 in steps of 1/255.

    resample: "bilinear" (without antialiasing) or "bicubic" (Pillow's).
    """
    if resample == "bicubic":
        return to_tensor(image.resize(shape[::-1], Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)[None].float()
    return F.interpolate(pixels, shape, mode="bilinear", align_corners=False)[0].add_(0.5).floor_().div_(255)


def statistics(of_backbone: Normalisation, colour: str) -> Normalisation:
    """Return the backbone's colour statistics; "dino" changes ImageNet's deviation of red from 0.229 to 0.228."""
    imagenet = (tuple(of_backbone.mean), tuple(of_backbone.std)) == (IMAGENET_MEAN, IMAGENET_STD)
    return Normalisation(of_backbone.mean, DINO_STD) if imagenet and colour == "dino" else of_backbone


class _Frames(Samples):
    """Frames of one size, decoded and resized in worker processes."""

    def __init__(
        self, videos: Videos, items: Sequence[Item], native: tuple[int, int], shape: tuple[int, int], resample: str
    ) -> None:
        self.videos, self.items, self.native, self.shape, self.resample = videos, items, native, shape, resample

    def sample(self, key: int) -> Float[Tensor, "3 h w"]:
        item = self.items[key]
        image = self.videos.image(item)
        if image.size != self.native:
            sizes = " but the sequence's first one ".join(f"{w} x {h}" for w, h in (image.size, self.native))
            raise UserError(f"the frame {item.image} is {sizes} (width x height); frames of a sequence are of one size")
        return resized(image, self.shape, self.resample)


def steps(
    videos: Videos, sequences: Sequence[Sequence[Item]], shape: tuple[int, int], resample: str, workers: int, pin: bool = False
) -> Iterator[Float[Tensor, "b 3 h w"]]:
    """Yield the first frames of all sequences as a batch, then the second ones, and so on.

    sequences: sorted by length, the longest first, so that those that have ended are the last of a batch. pin: return batches in
    page-locked memory, for a GPU.
    Raises UserError naming the file of a frame that cannot be read or has another size than the first one.
    """
    items = [item for frames in sequences for item in frames]
    starts = np.cumsum([0, *map(len, sequences)])
    batches = [
        [int(start) + t for start, frames in zip(starts, sequences, strict=False) if t < len(frames)]
        for t in range(len(sequences[0]))
    ]
    frames = _Frames(videos, items, videos.image_size(items[0]), shape, resample)
    most = len(sequences) * 3 * shape[0] * shape[1] * torch.float32.itemsize
    yield from checked(make_loader(frames, torch.stack, workers, pin, batch_bytes=most, batch_sampler=batches))
