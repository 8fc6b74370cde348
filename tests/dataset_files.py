"""Files of data sets, made up: images of one colour and label maps of a few values."""

from __future__ import annotations

import numpy as np
from PIL import Image

SHIPPED = {
    "ade20k": 150, "animal-pose": 5, "ap10k": 50, "camvid": 11, "cityscapes": 19, "coco-boxes": 80, "coco-stuff": 15,
    "coco-stuff164k": 171, "coco-things": 12, "coco20k": 80, "davis2016": 0, "davis2017": 0, "dut-omron": 2, "duts-te": 2,
    "ecssd": 2, "imagenet-boxes": 0, "pascal-context": 60, "pascal-context-59": 59, "pf-pascal": 20, "scenes": 8,
    "scenes-boxes": 5, "scenes-keypoints": 4, "scenes-objects": 6, "scenes-videos": 0, "spair71k": 18, "uavdt": 1, "voc": 21,
    "voc2007": 20, "voc2012": 20,
}  # fmt: skip
"""Name -> number of classes of the data sets that come with densebench; there may be others beside them."""

GENERATED = {"scenes", "scenes-boxes", "scenes-keypoints", "scenes-objects", "scenes-videos"}
"""The data sets that are always there."""


def save_image(path, height=4, width=6, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def save_mask(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.array(rows, np.uint8))
    if path.parent.name.startswith("Segmentation"):  # paletted, as VOC's
        mask = mask.convert("P")
        mask.putdata(np.array(rows).ravel().tolist())
        mask.putpalette(list(range(256)) * 3)
    mask.save(path)


def save_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def grid(*values, height=4, width=6):
    """A mask whose first pixels are `values` and whose others are values[0]."""
    mask = np.full(height * width, values[0], np.uint8)
    mask[: len(values)] = values
    return mask.reshape(height, width)


def levels_of(pairs):
    """The levels by which pairs can be told apart: for each name the values that occur, in ascending order."""
    found = {}
    for pair in pairs:
        for name, value in pair.levels:
            found.setdefault(name, set()).add(value)
    return {name: sorted(values) for name, values in sorted(found.items())}
