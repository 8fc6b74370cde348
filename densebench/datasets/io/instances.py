"""COCO's instances format: a JSON that lists images, categories and, one by one, objects with box, area and mask.

Lin et al., Microsoft COCO, ECCV 2014. The official training file has 860,001 objects in 448 MB. As Python objects that would
be gigabytes in every process, so each object is packed into arrays while the file is parsed, its mask as text; the arrays are
written to the cache folder, from where all processes map them.
"""

from __future__ import annotations

import functools
import itertools
import json
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from densebench.datasets.boxes import Objects
from densebench.datasets.io.annotations import reading_coco
from densebench.datasets.io.digests import digests_of
from densebench.datasets.io.names import check_name
from densebench.datasets.io.panoptic import listed, whole
from densebench.errors import UserError
from densebench.files.atomic import cache_root, digest

PARTS = ("head", "sizes", "starts", "boxes", "categories", "crowd", "areas", "masks", "spans")
VERSION = 1  # raise it when a file would be packed otherwise
IDS, SIDE = 2**16 - 1, 2**24 - 1  # the greatest category id and the longest side in px that are accepted


@dataclass(frozen=True)
class Instances:
    """One instances JSON. Images are in the order of their ids; the objects of image i are rows starts[i] to starts[i + 1].

    files: name of each image's file. names: category id -> name. dropped: objects left out because nothing of their box lies in
    the image. arrays: sizes, the width and height of each image in px; starts; boxes, crowd and areas as `Objects`; categories,
    the file's own ids; masks, JSON texts one after the other, that of object j from spans[j] to spans[j + 1].
    """

    path: Path
    files: tuple[str, ...]
    names: dict[int, str]
    dropped: int
    arrays: dict[str, np.ndarray]

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """Stem of an image's file -> the row of the image."""
        return {Path(file).stem: row for row, file in enumerate(self.files)}

    def size(self, row: int) -> tuple[int, int]:
        """Return the width and height of an image as the file says."""
        width, height = self.arrays["sizes"][row].tolist()
        return width, height

    def objects(self, row: int, table: Int[np.ndarray, "ids"]) -> Objects:
        """Return the objects of an image; `table` turns category ids into classes."""
        rows = slice(*self.arrays["starts"][row : row + 2].tolist())
        ends = self.arrays["spans"][rows.start : rows.stop + 1].tolist()
        masks = tuple(json.loads(self.arrays["masks"][first:last].tobytes()) for first, last in itertools.pairwise(ends))
        boxes, crowd, areas = (self.arrays[name][rows].copy() for name in ("boxes", "crowd", "areas"))
        return Objects(boxes, table[self.arrays["categories"][rows]], crowd, areas, masks)


def read_instances(path: Path, remedy: str, boxes_alone: bool = False) -> Instances:
    """Read an instances JSON: parsed once, then mapped from the cache folder as long as its bytes stay.

    boxes_alone: objects may lack what tools leave out that draw boxes alone: the area is then that of the box, the mask is empty,
    and it is no crowd.
    Boxes are clipped to their image. Objects of whose box nothing is left are left out and counted in `dropped`, as in
    torchvision's reference training and MMDetection (which leaves out those narrower than a pixel too; that is not done here).
    Raises UserError where the file is missing or broken, or an object names an image or a category that the file lacks.
    """
    with reading_coco(path, remedy, "instances"):
        return _read(path, path.stat().st_mtime_ns, boxes_alone)


class _Packed:
    """The objects of a file in the order of the file, packed as the parser meets them."""

    def __init__(self, boxes_alone: bool) -> None:
        self.boxes_alone = boxes_alone
        self.images, self.categories, self.crowd = array("q"), array("q"), array("b")
        self.numbers, self.masks, self.lengths = array("d"), bytearray(), array("q")

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """Pack an annotated object and return None; return any other JSON object unchanged."""
        if "bbox" not in entry or "image_id" not in entry:
            return entry
        left, top, width, height = entry["bbox"]
        if self.boxes_alone:
            entry = {"area": width * height, "iscrowd": 0, **entry, "segmentation": entry.get("segmentation") or []}
        self.numbers.extend((left, top, width, height, entry["area"]))
        self.images.append(entry["image_id"])
        self.categories.append(entry["category_id"])
        self.crowd.append(entry["iscrowd"])
        text = json.dumps(entry["segmentation"], separators=(",", ":"), allow_nan=False).encode()
        self.masks += text
        self.lengths.append(len(text))
        return None


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int, boxes_alone: bool) -> Instances:
    import torch  # here, so that listing data sets does not import it

    from densebench.files.store import Store

    digests = digests_of("instances")
    key = digest([digests.digest(path), VERSION, *(["boxes alone"] if boxes_alone else [])], 24)
    digests.save()
    store = Store(cache_root() / "instances" / key, {"spec": f"objects of {path}", "version": VERSION})
    if any(name not in store for name in PARTS):
        store.add({name: torch.from_numpy(values.copy()) for name, values in _packed(path, boxes_alone).items()})
    arrays = {name: store[name].numpy() for name in PARTS}
    head = json.loads(arrays.pop("head").tobytes())
    files = tuple(check_name(file, f"{path}, images,") for file in head["files"])
    return Instances(path, files, dict(head["names"]), head["dropped"], arrays)


def _packed(path: Path, boxes_alone: bool) -> dict[str, np.ndarray]:
    """Return the arrays of `Instances`, and as "head" the JSON text of everything else."""
    packed = _Packed(boxes_alone)
    content = json.loads(path.read_text(encoding="utf-8"), object_hook=packed)
    if any(entry is not None for entry in listed(content, "annotations")):
        raise ValueError("an annotation lacks image_id or bbox")
    if strange := set(packed.crowd) - {0, 1}:
        raise ValueError(f"iscrowd is {strange.pop()}, not 0 or 1")
    names = {whole(category, "id", 0, IDS): _text(category, "name") for category in listed(content, "categories")}
    images = sorted(listed(content, "images"), key=lambda image: whole(image, "id", 0, 2**63 - 1))
    files = [_text(image, "file_name") for image in images]
    ids = np.array(array("q", (image["id"] for image in images)), np.int64)
    if len({Path(file).stem for file in files}) < len(files) or len(np.unique(ids)) < len(ids):
        raise ValueError("two images have one id or one name")
    sides = [[whole(image, side, 1, SIDE) for side in ("width", "height")] for image in images]
    sizes = np.array(sides, np.int64).reshape(-1, 2)
    _check_known(path, "image", np.array(packed.images, np.int64), ids)
    _check_known(path, "category", np.array(packed.categories, np.int64), np.array(array("q", names), np.int64))
    arrays = _arranged(packed, ids, sizes)
    head = {"files": files, "names": list(names.items()), "dropped": len(packed.images) - len(arrays["boxes"])}
    return {"head": np.frombuffer(json.dumps(head).encode(), np.uint8), "sizes": sizes, **arrays}


def _text(entry: Any, key: str) -> str:
    if not isinstance(entry[key], str):
        raise ValueError(f"{key} is {str(entry[key])[:40]}, not text")
    return entry[key]


def _check_known(path: Path, what: str, used: Int[np.ndarray, "n"], known: Int[np.ndarray, "m"]) -> None:
    strange = np.setdiff1d(used, known)
    if len(strange):
        raise UserError(f"{path} has objects of {what} {strange[0]}, which it does not list; fetch it again")


def _arranged(packed: _Packed, ids: Int[np.ndarray, "images"], sizes: Int[np.ndarray, "images 2"]) -> dict[str, np.ndarray]:
    """Clip the boxes, drop what is empty, and bring the objects into the order of the images."""
    numbers = np.array(packed.numbers, np.float64).reshape(-1, 5)
    if not np.isfinite(numbers).all():
        raise ValueError("a box or an area is not a finite number")
    image = np.searchsorted(ids, np.array(packed.images, np.int64))
    corners = np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:4]], axis=1)
    boxes = np.clip(corners, 0, np.tile(sizes[image], 2))
    nonempty = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    order = np.flatnonzero(nonempty)[np.argsort(image[nonempty], kind="stable")]
    lengths = np.array(packed.lengths, np.int64)
    begins = np.cumsum(lengths) - lengths
    masks = b"".join(bytes(packed.masks[begins[j] : begins[j] + lengths[j]]) for j in order.tolist())
    return {
        "starts": np.searchsorted(image[order], np.arange(len(ids) + 1)),
        "boxes": boxes[order],
        "categories": np.array(packed.categories, np.int64)[order],
        "crowd": np.array(packed.crowd, bool)[order],
        "areas": numbers[order, 4],
        "masks": np.frombuffer(masks, np.uint8),
        "spans": np.append(0, np.cumsum(lengths[order])),
    }
