"""Annotation files of shapes: COCO's instances JSON (one, or one a split), CVAT's XML "for images" (1.1), LabelMe's JSONs.

Where shapes overlap: COCO's files have no order, so the smaller one is on top; crowds are painted as other objects. CVAT's are
ordered by z_order and then as in the file, LabelMe's as in the file; the later one is on top.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from densebench.datasets.folders.pairs import SPLITS
from densebench.datasets.folders.shapes import CORNERS, Drawing, Ellipse, Outline, Polygons, Runs, checked, checked_ring, turned
from densebench.datasets.io.annotations import MALFORMED, parse_xml, reading
from densebench.datasets.io.decoding import opened
from densebench.datasets.io.names import check_name
from densebench.datasets.io.panoptic import listed, whole
from densebench.datasets.io.run_lengths import check_lengths, runs
from densebench.errors import UserError
from densebench.files.atomic import check_ordinary

SIDE = 2**16
"""Longest side of an image in px that a file may state."""
VOID_LABEL, BACKGROUND_LABEL = "__ignore__", "_background_"
"""LabelMe's labels of void and of the background."""


@dataclass(frozen=True)
class Annotations:
    """The shapes of many images.

    kind: such as "COCO". labels: in the order of the ids. files: name of an image's file, below the folder of images, -> its
    shapes; by_split: the names begin with the split whose file it is. sources: the same names -> the file that says so.
    """

    kind: str
    labels: tuple[str, ...]
    files: dict[str, Drawing]
    sources: dict[str, Path]
    by_split: bool = False

    def file_name(self, name: str) -> str:
        """Return the name of an image's file as the annotations give it."""
        return name.partition("/")[2] if self.by_split else name


def split_files(folder: Path) -> dict[str, Path]:
    """Return split -> the COCO JSON of each, where all JSONs of a folder are called as splits, such as instances_val2017.json, or
    where its folders are and hold one each; else an empty dictionary."""
    files = [(_split_in(path.stem), path) for path in sorted(folder.glob("*.json"))]
    if not files:
        found = [(child.name, sorted(child.glob("*.json"))) for child in sorted(folder.iterdir()) if child.name.lower() in SPLITS]
        files = [(name, paths[0]) for name, paths in found if len(paths) == 1]
    splits = dict(files)
    return splits if len(splits) == len(files) > 1 and "" not in splits else {}


def _split_in(stem: str) -> str:
    """Return the one word of a file's name that is a split; "" where there is none."""
    words = [word for word in re.split("[^a-z]+", stem.lower()) if word in SPLITS]
    return words[0] if len(words) == 1 else ""


def read_annotations(path: Path) -> Annotations:
    """Return the shapes in a file or in a folder of files; they are read once in a process as long as they do not change.

    Raises UserError where a file is missing, broken, of an unknown kind, or holds a shape that encloses nothing, such as a line.
    """
    with reading(path, "correct labels"):
        if path.is_dir() and (splits := split_files(path)):
            return _joined({split: _coco(file, file.stat().st_mtime_ns) for split, file in splits.items()})
        if path.is_dir():
            paths = sorted(path.glob("*.json"))
            return _labelme(tuple((file, file.stat().st_mtime_ns) for file in paths))
        check_ordinary(path)
        readers: dict[str, Callable[[Path, int], Annotations]] = {".json": _coco, ".xml": _cvat}
        if path.suffix.lower() not in readers:
            raise UserError(f"labels is {path}, neither a COCO .json nor a CVAT .xml nor a folder; correct it")
        return readers[path.suffix.lower()](path, path.stat().st_mtime_ns)


@contextmanager
def _shaped(path: Path, kind: str) -> Iterator[None]:
    """Turn what a file of another shape raises into a UserError."""
    try:
        with reading(path, "export it again"):
            yield
    except (*MALFORMED, ET.ParseError, binascii.Error) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no {kind} ({type(error).__name__}: {reason}); export it again") from error


@functools.lru_cache(maxsize=4)
def _coco(path: Path, changed: int) -> Annotations:
    with _shaped(path, "COCO instances file"):
        content = json.loads(path.read_text(encoding="utf-8"))
        categories = sorted(listed(content, "categories"), key=lambda entry: whole(entry, "id", 0, 2**31))
        names = {category["id"]: _text(category["name"], "name") for category in categories}
        if len(set(names.values())) < len(categories):
            raise ValueError("two categories have one id or one name")
        images = {whole(image, "id", 0, 2**63 - 1): image for image in listed(content, "images")}
        shapes: dict[int, list[tuple[str, Outline]]] = {number: [] for number in images}
        for number, entry in enumerate(listed(content, "annotations")):
            image, category = entry["image_id"], entry["category_id"]
            if image not in images or category not in names:
                raise ValueError(
                    f"annotation {number} is of image {image!r} and category {category!r}, which are not both listed"
                )
            shapes[image].append((names[category], _segmentation(entry.get("segmentation"), _size(images[image]), number)))
        files: dict[str, Drawing] = {}
        for number, image in images.items():
            _add(files, image["file_name"], Drawing(_size(image), tuple(shapes[number]), smaller_on_top=True), f"{path}, images,")
        return Annotations("COCO", tuple(names.values()), files, dict.fromkeys(files, path))


def _joined(parts: dict[str, Annotations]) -> Annotations:
    """Return the shapes of several files, one a split. Raises UserError where their categories differ."""
    first, *others = parts.values()
    for other in others:
        if other.labels != first.labels:
            paths = [next(iter(part.sources.values()), Path()) for part in (first, other)]
            raise UserError(f"{paths[0]} and {paths[1]} list different categories; export both with the same ones")
    files = {f"{split}/{name}": drawing for split, part in parts.items() for name, drawing in part.files.items()}
    sources = {f"{split}/{name}": path for split, part in parts.items() for name, path in part.sources.items()}
    return Annotations(first.kind, first.labels, files, sources, by_split=True)


def _size(image: Any) -> tuple[int, int]:
    return whole(image, "width", 1, SIDE), whole(image, "height", 1, SIDE)


def _segmentation(mask: Any, size: tuple[int, int], number: int) -> Outline:
    width, height = size
    if not mask:
        raise ValueError(f"annotation {number} has a box alone and no segmentation")
    if isinstance(mask, list):
        rings = [checked_ring(ring) for ring in mask]
        return Polygons(tuple(ring for ring in rings if len(ring) >= 2 * CORNERS))
    counts = mask["counts"]
    lengths = runs(counts.encode()) if isinstance(counts, str) else counts
    if list(mask["size"]) != [height, width] or not isinstance(lengths, list):
        raise ValueError(f"the mask of annotation {number} is not of {width} x {height} px, as its image")
    check_lengths(lengths, width * height)
    return Runs(0, 0, width, height, tuple(lengths), by_column=True)


@functools.lru_cache(maxsize=4)
def _cvat(path: Path, changed: int) -> Annotations:
    with _shaped(path, 'XML of "CVAT for images"'):
        root = parse_xml(path)
        if root.tag != "annotations":
            raise ValueError(f"its root is {root.tag}")
        labels = [_text((entry.findtext("name") or "").strip(), "name") for entry in root.iterfind("./meta//labels/label")]
        files: dict[str, Drawing] = {}
        for image in root.iterfind("image"):
            size = (_whole(image, "width"), _whole(image, "height"))
            ordered = sorted(enumerate(image), key=lambda pair: (int(pair[1].get("z_order", "0")), pair[0]))
            shapes = tuple((node.attrib["label"], _cvat_shape(node)) for _, node in ordered if node.tag != "tag")
            _add(files, image.attrib["name"], Drawing(size, shapes), f"{path}, image,")
        used = dict.fromkeys(label for drawing in files.values() for label, _ in drawing.shapes)
        return Annotations("CVAT", tuple(dict.fromkeys([*labels, *used])), files, dict.fromkeys(files, path))


def _cvat_shape(node: ET.Element) -> Outline:
    if node.tag == "polygon":
        pairs = [corner.split(",") for corner in node.attrib["points"].split(";")]
        return Polygons((checked_ring([float(value) for pair in pairs for value in pair]),))
    degrees = float(node.get("rotation", "0"))
    if node.tag == "box":
        left, top, right, bottom = (checked(float(node.attrib[side])) for side in ("xtl", "ytl", "xbr", "ybr"))
        return turned((left, top, right, bottom), checked(degrees))
    if node.tag == "ellipse":
        x, y, across, down = (checked(float(node.attrib[name])) for name in ("cx", "cy", "rx", "ry"))
        return _ellipse(x, y, across, down, checked(degrees))
    if node.tag == "mask":
        lengths = [int(length) for length in node.attrib["rle"].split(",")]
        left, top = (int(checked(int(node.attrib[side]))) for side in ("left", "top"))
        width, height = _whole(node, "width"), _whole(node, "height")
        check_lengths(lengths, width * height)
        return Runs(left, top, width, height, tuple(lengths))
    raise ValueError(f"a {node.tag} encloses no pixels; polygon, box, ellipse and mask do")


def _ellipse(x: float, y: float, across: float, down: float, degrees: float = 0.0) -> Ellipse:
    if across <= 0 or down <= 0:
        raise ValueError(f"an ellipse has the half axes {across:g} and {down:g}")
    return Ellipse(x, y, across, down, degrees)


def _whole(node: ET.Element, key: str) -> int:
    value = int(node.attrib[key])
    if not 1 <= value <= SIDE:
        raise ValueError(f"{key} is {value}, not from 1 to {SIDE}")
    return value


@functools.lru_cache(maxsize=4)
def _labelme(files: tuple[tuple[Path, int], ...]) -> Annotations:
    drawings: dict[str, Drawing] = {}
    sources: dict[str, Path] = {}
    for path, _ in files:
        with _shaped(path, "LabelMe JSON"):
            check_ordinary(path)
            content = json.loads(path.read_text(encoding="utf-8"))
            size = (whole(content, "imageWidth", 1, SIDE), whole(content, "imageHeight", 1, SIDE))
            shapes = tuple((_text(entry["label"], "label"), _labelme_shape(entry, path)) for entry in listed(content, "shapes"))
            name = PurePosixPath(_text(content["imagePath"], "imagePath").replace("\\", "/")).name
            _add(drawings, name, Drawing(size, shapes), f"{path}, imagePath,")
            sources[name] = path
    used = sorted({label for drawing in drawings.values() for label, _ in drawing.shapes} - {VOID_LABEL, BACKGROUND_LABEL})
    return Annotations("LabelMe", tuple(used), drawings, sources)


def _labelme_shape(entry: Any, path: Path) -> Outline:
    kind = entry.get("shape_type", "polygon")
    points = [(checked(x), checked(y)) for x, y in listed(entry, "points")]
    if kind == "polygon":
        return Polygons((tuple(itertools.chain(*points)),))
    if kind == "rectangle" and len(points) == 4:  # since LabelMe 5.9: its corners, perhaps turned
        return Polygons((tuple(itertools.chain(*points)),))
    if kind in ("rectangle", "circle", "mask"):
        (xa, ya), (xb, yb) = points
        if kind == "circle":
            radius = math.hypot(xb - xa, yb - ya)
            return _ellipse(xa, ya, radius, radius)
        if kind == "rectangle":
            return turned((min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)), 0.0)
        return _labelme_mask(entry["mask"], round(xa), round(ya), path)
    raise ValueError(f"a {str(kind)[:40]} encloses no pixels; polygon, rectangle, circle and mask do")


def _labelme_mask(text: Any, left: int, top: int, path: Path) -> Runs:
    content = io.BytesIO(base64.b64decode(_text(text, "mask"), validate=True))
    with opened(content, f"a mask in {path}", remedy="export it again") as image:
        inside = np.array(image.convert("L")).astype(bool)
    height, width = inside.shape
    changes = np.flatnonzero(np.diff(inside.ravel().astype(np.int8), prepend=np.int8(0))).tolist()
    lengths = np.diff([0, *changes, inside.size]).tolist()
    return Runs(left, top, width, height, tuple(lengths))


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {str(value)[:40]!r}, not text")
    return value


def _add(files: dict[str, Drawing], name: Any, drawing: Drawing, where: str) -> None:
    if check_name(name, where) in files:
        raise ValueError(f"two images are called {name}")
    files[name] = drawing
