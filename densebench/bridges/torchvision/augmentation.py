"""Training images as detectors see them: flipped, resized, cropped, with boxes and masks that follow.

- scales: the short side is drawn from 480, 512, ..., 800 px, the long side is at most 1333 px.
- detr: half of the images as in `scales`; the others are first resized to a short side of 400, 500 or 600 px and cropped at
  random to sides of 384 to 600 px (Carion et al., DETR, ECCV 2020, as MMDetection and FLSL restate it).
- lsj: large-scale jitter (Ghiasi et al., CVPR 2021, as in ViTDet): images are resized to fit a square of 1024 px times a factor
  of 0.1 to 2, and cropped to 1024 px; boxes are drawn anew around what is left of the masks.
- flip: the short side is 800 px.

Half of the images are mirrored in all of them. The sizes are those for `--short-side` 800 (lsj: 1024) and are scaled with it.
Masks are sampled once, by nearest neighbours in the original, however often the image was resampled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from densebench.bridges.torchvision.options import Options

SHORT = 800
SCALES = range(480, 801, 32)
FIRST, PART = (400, 500, 600), (384, 600)
JITTER = (0.1, 2.0)
SLIVER = 1e-2  # px: narrower boxes are dropped, since the two sides might be equal in float32


@dataclass(frozen=True)
class Sample:
    """An image and its objects.

    boxes: left, top, right, bottom in px of `pixels`. objects: the index of each box's object in the image. rows, columns: the
    row and column of the original image for each row and column of `pixels`, by nearest neighbours, where masks are sampled.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]
    objects: Int[np.ndarray, "n"]
    rows: Int[np.ndarray, "h"]
    columns: Int[np.ndarray, "w"]

    @classmethod
    def of(cls, image: Image.Image, boxes: Float[np.ndarray, "n 4"]) -> Sample:
        """Return the sample of an image without augmentation."""
        pixels = np.asarray(image)
        return cls(pixels, boxes, np.arange(len(boxes)), np.arange(pixels.shape[0]), np.arange(pixels.shape[1]))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.pixels.shape[0], self.pixels.shape[1]


def flip(sample: Sample) -> Sample:
    """Return the sample mirrored left to right."""
    width = sample.size[1]
    boxes = np.stack([width - sample.boxes[:, 2], sample.boxes[:, 1], width - sample.boxes[:, 0], sample.boxes[:, 3]], axis=1)
    return replace(sample, pixels=sample.pixels[:, ::-1], boxes=boxes, columns=sample.columns[::-1])


def resize(sample: Sample, height: int, width: int) -> Sample:
    """Return the sample resized bilinearly to height x width px."""
    old = sample.size
    picture = Image.fromarray(np.ascontiguousarray(sample.pixels)).resize((width, height), Image.Resampling.BILINEAR)
    boxes = sample.boxes * np.array([width / old[1], height / old[0]] * 2)
    rows, columns = sample.rows[nearest(old[0], height)], sample.columns[nearest(old[1], width)]
    return replace(sample, pixels=np.asarray(picture), boxes=boxes, rows=rows, columns=columns)


def nearest(old: int, new: int) -> Int[np.ndarray, "new"]:
    """Return for each of `new` pixels the index of the one of `old` pixels under its centre."""
    return ((2 * np.arange(new) + 1) * old) // (2 * new)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Return a part of the sample. Boxes are clipped to it; those outside of it are dropped."""
    down, across = slice(top, top + height), slice(left, left + width)
    pixels = sample.pixels[down, across]
    limits = np.array([pixels.shape[1], pixels.shape[0]] * 2)
    boxes = (sample.boxes - np.array([left, top] * 2)).clip(0, limits)
    return Sample(pixels, *wider(0, boxes, sample.objects), sample.rows[down], sample.columns[across])


def wider(
    limit: float, boxes: Float[np.ndarray, "n 4"], objects: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "m 4"], Int[np.ndarray, "m"]]:
    """Return the boxes whose sides are both longer than a limit in px, and their objects."""
    wide = (boxes[:, 2:] - boxes[:, :2] > limit).all(axis=1)
    return boxes[wide], objects[wide]


def fitted(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Return the largest height and width of the same aspect with a short side up to `short` and a long side up to `long`."""
    scale = min(short / min(height, width), long / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def augment(sample: Sample, options: Options, random: np.random.Generator) -> Sample:
    """Return the sample under a random augmentation; boxes narrower than SLIVER are dropped."""
    sample = _drawn(sample, options, random)
    boxes, objects = wider(SLIVER, sample.boxes, sample.objects)
    return replace(sample, boxes=boxes, objects=objects)


def _drawn(sample: Sample, options: Options, random: np.random.Generator) -> Sample:
    sample = flip(sample) if random.random() < 0.5 else sample
    if options.augmentation == "lsj":
        return _jitter(sample, options.short_side, random)
    if options.augmentation == "detr" and random.random() < 0.5:
        sample = _part(sample, options, random)
    scales = (SHORT,) if options.augmentation == "flip" else SCALES
    return resize(sample, *fitted(*sample.size, _scaled(random.choice(scales), options), options.longest))


def _scaled(side: int, options: Options) -> int:
    return max(1, round(side * options.short_side / SHORT))


def _part(sample: Sample, options: Options, random: np.random.Generator) -> Sample:
    sample = resize(sample, *fitted(*sample.size, _scaled(random.choice(FIRST), options), options.longest))
    low, high = (_scaled(side, options) for side in PART)
    height, width = (int(random.integers(min(side, low), min(side, high) + 1)) for side in sample.size)
    top, left = (int(random.integers(0, side - cut + 1)) for side, cut in zip(sample.size, (height, width), strict=True))
    return crop(sample, top, left, height, width)


def _jitter(sample: Sample, side: int, random: np.random.Generator) -> Sample:
    square = side * random.uniform(*JITTER)
    scale = square / max(sample.size)
    sample = resize(sample, *(max(1, round(length * scale)) for length in sample.size))
    share = random.random()  # the same for both directions, as in detectron2
    top, left = (round(max(length - side, 0) * share) for length in sample.size)
    return crop(sample, top, left, side, side)


def masks_of(
    sample: Sample, decode: Callable[[Int[np.ndarray, "n"]], UInt8[np.ndarray, "n height width"]]
) -> UInt8[np.ndarray, "n h w"]:
    """Return the masks of a sample's objects. decode: returns the masks of objects, by index, at the original size."""
    return decode(sample.objects)[:, sample.rows][:, :, sample.columns]


def boxes_of(masks: UInt8[np.ndarray, "n h w"]) -> Float[np.ndarray, "n 4"]:
    """Return the tightest box around each mask; zeros for an empty one."""
    boxes = np.zeros((len(masks), 4))
    for box, mask in zip(boxes, masks, strict=True):
        down, across = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(down):
            box[:] = across[0], down[0], across[-1] + 1, down[-1] + 1
    return boxes
