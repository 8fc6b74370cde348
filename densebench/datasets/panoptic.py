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

from densebench.datasets.decoding import read_mask
from densebench.errors import UserError


@dataclass(frozen=True)
class Panoptic:
    """One panoptic JSON: the categories, and for each PNG (by stem) its segment ids (sorted) and their category ids."""

    path: Path
    categories: list[dict[str, Any]]
    segments: dict[str, tuple[np.ndarray, np.ndarray]]

    def categories_of(self, png: Path) -> np.ndarray:
        """The category id of each pixel, int16 [h, w]; 0 is unlabelled. Raises UserError for a segment not in the JSON."""
        red, green, blue = np.moveaxis(read_mask(png, "RGB").astype(np.int32), -1, 0)
        pixels = red + 256 * green + 65536 * blue
        if png.stem not in self.segments:
            raise UserError(f"{self.path} says nothing about {png.name}; fetch both again")
        ids, categories = self.segments[png.stem]
        ids, categories = np.append(0, ids), np.append(0, categories)
        place = np.searchsorted(ids, pixels).clip(max=len(ids) - 1)
        stray = ids[place] != pixels
        if stray.any():
            raise UserError(
                f"the label map {png} holds the segment {pixels[stray][0]}, which {self.path} lacks; fetch both again"
            )
        return categories[place].astype(np.int16)


def read_panoptic(path: Path, remedy: str) -> Panoptic:
    """Read a panoptic JSON, once in a process as long as it does not change. Raises UserError where it is missing or broken."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no COCO panoptic file ({type(error).__name__}: {error}); fetch it again") from error


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Panoptic:
    content = json.loads(path.read_text(encoding="utf-8"))
    segments = {}
    for annotation in content["annotations"]:
        pairs = sorted((segment["id"], segment["category_id"]) for segment in annotation["segments_info"])
        table = np.array(pairs, np.int32).reshape(-1, 2)
        segments[Path(annotation["file_name"]).stem] = (table[:, 0], table[:, 1].astype(np.int16))
    return Panoptic(path, content["categories"], segments)
