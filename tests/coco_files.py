"""COCO's files, made up: images of one colour or given, and an instances JSON with the official categories."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from densebench.datasets.coco import GAPS, THINGS

CATEGORIES = [
    {"id": i, "name": name} for i, name in zip([i for i in range(1, 91) if i - 1 not in GAPS], THINGS.split("|"), strict=True)
]


def instance(image, category, box, crowd=0, area=None, segmentation=None):
    """An annotation; box: left, top, width, height."""
    left, top, width, height = box
    outline = [[left, top, left + width, top, left + width, top + height]]
    return {
        "image_id": image, "category_id": category, "bbox": list(box), "iscrowd": crowd,
        "area": width * height / 2 if area is None else area,
        "segmentation": outline if segmentation is None else segmentation,
    }  # fmt: skip


def write_coco(root, split, images, annotations, categories=CATEGORIES):
    """images: id -> (width, height) or pixels uint8 [h, w, 3]. Returns the path of the JSON."""
    folder = root / "coco" / f"{split}2017"
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, what in images.items():
        pixels = what if isinstance(what, np.ndarray) else np.full((what[1], what[0], 3), number % 256, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:012}.jpg", quality=95)
        size = {"width": pixels.shape[1], "height": pixels.shape[0]}
        entries.append({"id": number, "file_name": f"{number:012}.jpg", **size})
    path = root / "coco" / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return path
