"""COCO's panoptic format: a JSON that lists the segments of each image, and a PNG whose colours are segment ids.

Kirillov et al., Panoptic Segmentation, CVPR 2019. id = R + 256 G + 65536 B; 0 is unlabelled.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densebench.datasets.io.annotations import reading_coco
from densebench.datasets.io.decoding import read_mask
from densebench.datasets.io.names import check_name
from densebench.errors import UserError
from densebench.files.atomic import check_ordinary

CATEGORIES = 255  # the greatest category id that a table of ids has room for


@dataclass(frozen=True)
class Panoptic:
    """One panoptic JSON: the categories, and for each PNG (by stem) its segment ids (sorted) and their category ids."""

    path: Path
    categories: list[dict[str, Any]]
    segments: dict[str, tuple[np.ndarray, np.ndarray]]

    def categories_of(self, png: Path) -> np.ndarray:
        """Return the category id of each pixel, int16 [h, w]; 0 is unlabelled. Raises UserError for a segment not in the JSON."""
        red, green, blue = np.moveaxis(read_mask(png, "RGB").astype(np.int32), -1, 0)
        pixels = red + 256 * green + 65536 * blue
        if png.stem not in self.segments:
            raise UserError(f"{self.path} says nothing about {png.name}; fetch both again")
        ids, categories = self.segments[png.stem]
        ids, categories = np.append(0, ids), np.append(0, categories)
        index = np.searchsorted(ids, pixels).clip(max=len(ids) - 1)
        stray = ids[index] != pixels
        if stray.any():
            raise UserError(
                f"the label map {png} holds the segment {pixels[stray][0]}, which {self.path} lacks; fetch both again"
            )
        return categories[index].astype(np.int16)


def read_panoptic(path: Path, remedy: str) -> Panoptic:
    """Read a panoptic JSON, once in a process as long as it does not change. Raises UserError where it is missing or broken."""
    with reading_coco(path, remedy, "panoptic"):
        check_ordinary(path)
        return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Panoptic:
    content = json.loads(path.read_text(encoding="utf-8"))
    segments = {}
    for annotation in listed(content, "annotations"):
        listing = listed(annotation, "segments_info")
        pairs = sorted((whole(segment, "id", 0, 2**24 - 1), whole(segment, "category_id", 0, CATEGORIES)) for segment in listing)
        table = np.array(pairs, np.int32).reshape(-1, 2)
        name = check_name(annotation["file_name"], f"{path}, annotations,")
        segments[Path(name).stem] = (table[:, 0], table[:, 1].astype(np.int16))
    return Panoptic(path, categories_of(content, "isthing"), segments)


def listed(content: Any, key: str) -> list[Any]:
    """Return the list under a key of a JSON object. Raises KeyError, TypeError or ValueError where there is none."""
    if not isinstance(content[key], list):
        raise ValueError(f"{key} is not a list")
    return content[key]


def whole(entry: Any, key: str, least: int, most: int) -> int:
    """Return the whole number under a key of a JSON object. Raises KeyError, TypeError or ValueError for anything else."""
    value = entry[key]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key} is {str(value)[:40]}, not a whole number from {least} to {most}")
    return value


def categories_of(content: Any, *flags: str) -> list[dict[str, Any]]:
    """Return the categories of a JSON, each with an id and a supercategory, and with `flags` that are 0 or 1.

    Raises KeyError, TypeError or ValueError for another shape.
    """
    categories = listed(content, "categories")
    for category in categories:
        whole(category, "id", 0, CATEGORIES)
        if any(category[flag] not in (0, 1) for flag in flags):
            raise ValueError(f"{' and '.join(flags)} must be 0 or 1")
        if not isinstance(category["supercategory"], str):
            raise ValueError("a supercategory is not text")
    return categories
