"""COCO's masks: polygons and run lengths. COCO's own code rasterises polygons and encodes masks as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from densebench.datasets.io.run_lengths import check_lengths, runs
from densebench.errors import UserError
from densebench.extras import require

CORNERS = 3  # fewest corners of a polygon; pycocotools would take two for a box
FARTHEST = 2**20  # largest coordinate in px, since pycocotools walks along every edge pixel by pixel


def _coco() -> Any:
    return require("pycocotools.mask", "reading or writing COCO's masks")


def run_lengths(mask: Any, height: int, width: int, name: str) -> dict[str, Any]:
    """Return a mask as compressed run lengths. Polygons of fewer than three corners are left out, as detectron2 leaves them out.

    Raises UserError, naming the image, where the mask is broken or has another size than the image, and where pycocotools is not
    installed. (pycocotools itself would read beyond the end of run lengths that do not fill the image.)
    """
    try:
        if not isinstance(mask, dict):
            return _polygons(mask, height, width)
        size, counts = [int(side) for side in mask["size"]], mask["counts"]
        if size != [height, width]:
            raise ValueError(f"it is of {size[1]} x {size[0]} px, the image of {width} x {height}")
        if isinstance(counts, list):
            check_lengths(counts, height * width)
            return _coco().frPyObjects(mask, height, width)
        text = counts.encode() if isinstance(counts, str) else counts
        check_lengths(runs(text), height * width)
        return {"size": size, "counts": text}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(f"a mask of the image {name} is broken ({error}); fetch the annotations again") from error


def _polygons(mask: Any, height: int, width: int) -> dict[str, Any]:
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        raise ValueError("it is not a list of polygons")
    if not all(type(value) in (int, float) and abs(value) <= FARTHEST for polygon in mask for value in polygon):
        raise ValueError(f"a corner is not a number up to {FARTHEST}")
    polygons = [polygon for polygon in mask if len(polygon) >= 2 * CORNERS]
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a corner has one coordinate")
    if not polygons:
        return _coco().encode(np.zeros((height, width), np.uint8, order="F"))
    return _coco().merge(_coco().frPyObjects(polygons, height, width))


def pixels(mask: dict[str, Any]) -> UInt8[np.ndarray, "h w"]:
    """Return the pixels of a mask from `run_lengths`, 1 inside."""
    lengths = runs(mask["counts"])
    height, width = mask["size"]
    return np.repeat((np.arange(len(lengths)) % 2).astype(np.uint8), lengths).reshape(width, height).T


def decode(masks: Sequence[Any], height: int, width: int, name: str) -> UInt8[np.ndarray, "n h w"]:
    """Return masks as pixels, 1 inside. Raises UserError with the name of their image where one is broken."""
    inside = np.zeros((len(masks), height, width), np.uint8)
    for row, mask in zip(inside, masks, strict=True):
        row[:] = pixels(run_lengths(mask, height, width, name))
    return inside


def encode(masks: UInt8[np.ndarray, "n h w"]) -> list[str]:
    """Return each mask as the text of COCO's compressed run lengths."""
    encoded = _coco().encode(np.asfortranarray(masks.transpose(1, 2, 0))) if len(masks) else []
    return [mask["counts"].decode() for mask in encoded]
