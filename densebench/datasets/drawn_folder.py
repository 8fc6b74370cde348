"""The user's own folder of images whose labels are shapes in an annotation file: `folder:DIR?labels=coco.json`."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from densebench.datasets.dataset import Item
from densebench.datasets.folder import Inferred
from densebench.datasets.folders.annotations import read_annotations
from densebench.datasets.folders.shapes import Drawing
from densebench.errors import UserError
from densebench.files.atomic import cache_root, digest, read_checked, write_checked


@dataclass(frozen=True, kw_only=True)
class Drawn(Inferred):
    """A folder whose label maps are painted.

    annotations: the file, or the folder of LabelMe's. ids: label -> the id that it paints; outside: the id of pixels outside all
    shapes. drawn: name of an item -> the name by which the annotations know its image.
    """

    annotations: Path
    ids: tuple[tuple[str, int], ...]
    outside: int
    drawn: tuple[tuple[str, str], ...]

    def label(self, item: Item) -> UInt8[np.ndarray, "h w"]:
        """Return the class of each pixel; it is painted once, and kept in the cache folder."""
        path = cache_root() / "painted" / f"{self.label_digest(item)}.png"
        if (content := read_checked(path)) is not None:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                return np.array(image)
        drawing = self._drawing(item)
        self.check_size(item, drawing.size[::-1])
        painted = drawing.paint(dict(self.ids), self.outside)
        stream = io.BytesIO()
        Image.fromarray(painted).save(stream, "PNG")
        write_checked(path, stream.getvalue())
        return painted

    def label_digest(self, item: Item) -> str:
        """Return the identity of what `label` returns: the shapes of the image, its size, and the mapping."""
        return digest([self.mapping, list(self.image_size(item)), self._drawing(item).identity()])

    def _drawing(self, item: Item) -> Drawing:
        name = self._names.get(item.name, "")
        if name not in self._files:
            raise UserError(f"{self.annotations} says nothing about {item.name}; it has changed: open the folder again")
        return self._files[name]

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        return dict(self.drawn)

    @functools.cached_property
    def _files(self) -> dict[str, Drawing]:
        return read_annotations(self.annotations).files

    def _meaning(self) -> dict[str, list[int]]:
        return {}
