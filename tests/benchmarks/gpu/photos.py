"""Synthetic photographs of the size of COCO's: JPEG files of 100 to 150 kB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIZES = ((640, 480), (480, 640), (500, 375))
DIFFERENT = 64


def photos(folder, count):
    """Write `count` files, no two of equal bytes, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    made = [_photo(rng, *SIZES[number % len(SIZES)]) for number in range(min(count, DIFFERENT))]
    for number in range(count):
        # decoders stop at the end marker: bytes after it make a different file of the same picture
        (folder / f"{number:06}.jpg").write_bytes(made[number % len(made)] + b"%d" % number)
    return folder


def labelled(folder, count):
    """A data set of `count` such photographs with label maps of two classes to train on, and two to score, opened by its path."""
    for split, images in (("train", count), ("val", 2)):
        for path in sorted(photos(folder / "images" / split, images).iterdir()):
            with Image.open(path) as image:
                width, height = image.size
            mask = np.zeros((height, width), np.uint8)
            mask[: height // 2] = 1
            target = folder / "masks" / split / f"{path.stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(target, compress_level=1)
    return folder


def _photo(rng, width, height):
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(int) + rng.normal(0, 22, (height, width, 3))
    target = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(target, "JPEG", quality=92)
    return target.getvalue()
