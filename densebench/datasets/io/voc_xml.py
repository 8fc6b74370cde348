"""Pascal VOC's XML of one image: its objects in boxes. ImageNet's localisation task and many labelling tools write it too.

Nothing in a file is executed or expanded: one that declares a document type, and with it entities, is refused.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from densebench.datasets.io.annotations import parse_xml

ROOT = "annotation"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Marked:
    """The objects of one image in the order of the file.

    size: width and height in px, None where the file lacks them. corners: xmin, ymin, xmax, ymax as written.
    difficult, truncated: False where the file does not say.
    """

    size: Float[np.ndarray, "2"] | None
    names: tuple[str, ...]
    corners: Float[np.ndarray, "n 4"]
    difficult: Bool[np.ndarray, "n"]
    truncated: Bool[np.ndarray, "n"]


def read_voc(path: Path) -> Marked:
    """Return what a file says. Boxes of parts, which lie within an object's entry, do not count.

    Raises OSError where it cannot be read, ET.ParseError where it is no XML, and ValueError for another root, a document type,
    and an object without a name or a finite corner.
    """
    root = parse_xml(path)
    if root.tag != ROOT:
        raise ValueError(f"its root is {root.tag[:40]}, not {ROOT}")
    objects = root.findall("object")
    corners = [[_number(node, f"bndbox/{corner}") for corner in CORNERS] for node in objects]
    return Marked(
        _size(root),
        tuple(_text(node, "name") for node in objects),
        np.array(corners, np.float64).reshape(-1, 4),
        np.array([_flag(node, "difficult") for node in objects], bool),
        np.array([_flag(node, "truncated") for node in objects], bool),
    )


def _size(root: ET.Element) -> Float[np.ndarray, "2"] | None:
    if root.find("size") is None:
        return None
    size = np.array([_number(root, f"size/{side}") for side in ("width", "height")])
    if (size < 1).any():
        raise ValueError(f"its size is {size[0]:g} x {size[1]:g}")
    return size


def _text(node: ET.Element, path: str) -> str:
    text = node.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"it lacks {path}")
    return text.strip()


def _number(node: ET.Element, path: str) -> float:
    value = float(_text(node, path))
    if not np.isfinite(value):
        raise ValueError(f"{path} is {value}")
    return value


def _flag(node: ET.Element, name: str) -> bool:
    """Return whether an object is marked; VOC writes "Unspecified" where nobody looked."""
    text = (node.findtext(name) or "0").strip()
    if text not in ("0", "1", "Unspecified"):
        raise ValueError(f"{name} is {text[:40]!r}, not 0 or 1")
    return text == "1"
