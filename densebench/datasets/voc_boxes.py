"""Pascal VOC 2007 and 2012 with the boxes of their detection task: 20 classes.

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010 and 2015. 5011 and 11540 images in trainval, of which
object discovery scores all; the annotations of test are public for 2007 alone. Boxes in the XML files count pixels from 1 and
include the last one: 1 is taken from xmin and ymin, so that a box from 1 to the width covers the image. Objects that are marked
difficult or truncated are there with their marks, as objects like others; a detector that is scored by the rules of VOC would
have to leave the difficult ones out.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.dataset import Item, Source
from densebench.datasets.io.annotations import reading
from densebench.datasets.io.names import read_list
from densebench.datasets.io.voc_xml import Marked, read_voc
from densebench.datasets.voc import CLASSES, Voc
from densebench.errors import UserError

FIRST = np.array([1.0, 1.0, 0.0, 0.0])
"""What is taken from xmin, ymin, xmax and ymax: pixels count from 1, and the last one belongs to the box."""
LICENCE = "images under Flickr's terms of use; annotations for research"


@dataclass(frozen=True, kw_only=True)
class VocXml(Boxed):
    """Objects from one VOC XML an image, which is the label file of its item."""

    def objects(self, item: Item) -> Objects:
        """Return the objects in the order of the file, clipped to the image; those of which nothing remains are left out."""
        whole = self.truth(item)
        boxes = np.clip(whole.boxes, 0, np.tile(np.array(self.image_size(item), np.float64), 2))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return _objects(boxes[kept], whole.classes[kept], whole.difficult[kept], whole.truncated[kept])

    def truth(self, item: Item) -> Objects:
        """Return all objects in the order of the file, neither clipped nor left out.

        Raises UserError for a file that is missing, broken or of another image size, and for a class that is unknown.
        """
        marked = self._marked(item)
        classes = np.array([self.classes.index(name) for name in marked.names], np.int64)
        return _objects(marked.corners - FIRST, classes, marked.difficult, marked.truncated)

    def annotation(self, item: Item) -> Any:
        """Return the bytes of the XML, and the size that boxes are clipped to."""
        return [self._digests.digest(_xml(item)), list(self.image_size(item))]

    def _marked(self, item: Item) -> Marked:
        path = _xml(item)
        try:
            with reading(path, self.remedy):
                marked = read_voc(path)
        except (ET.ParseError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise UserError(f"{path} is no annotation of Pascal VOC ({error}); fetch it again") from error
        if unlisted := next((name for name in marked.names if name not in self.classes), None):
            raise UserError(f"{path} holds an object {unlisted[:40]!r}, none of the {len(self.classes)} classes; correct it")
        width, height = self.image_size(item)
        if marked.size is not None and marked.size.tolist() != [width, height]:
            raise UserError(
                f"the image {item.image} is {width} x {height} but {path} says {marked.size[0]:g} x {marked.size[1]:g} "
                "(width x height); fetch both again"
            )
        return marked


@dataclass(frozen=True, kw_only=True)
class Voc2007(VocXml):
    """VOCdevkit/VOC2007: Annotations/*.xml and JPEGImages/*.jpg of the names in ImageSets/Main/<split>.txt, in their order."""

    name: str = "voc2007"
    title: str = "Pascal VOC 2007, boxes (20 classes)"
    classes: tuple[str, ...] = tuple(CLASSES.split()[1:])
    splits: tuple[str, ...] = ("trainval", "train", "val", "test")
    train_split: str = "trainval"
    val_split: str = "trainval"
    mapping: str = "voc-boxes-20-v1"
    licence: str = LICENCE

    year: ClassVar[str] = "2007"
    official_counts: ClassVar[dict[str, int]] = {"trainval": 5011, "train": 2501, "val": 2510, "test": 4952}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
            gives=("VOCdevkit/VOC2007/JPEGImages", "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"),
            checksum="md5:c52e279531787c972589f7e41ab4ae64",
        ),
        Source(
            url="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar",
            gives=("VOCdevkit/VOC2007/ImageSets/Main/test.txt",),
            checksum="md5:b6e924de25625d8de591ea690078ad9f",
        ),
    )

    @property
    def folder(self) -> Path:
        """The folder of this year below the data root."""
        return self.root / "VOCdevkit" / f"VOC{self.year}"

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield an item for each name of ImageSets/Main/<split>.txt. Raises UserError where the list or the XMLs are missing."""
        names = read_list(self.folder / "ImageSets" / "Main" / f"{split}.txt", self.remedy)
        labels = self.folder / "Annotations"
        if not labels.is_dir():
            raise UserError(f"the folder {labels} is missing; {self.remedy}")
        for name in names:
            yield Item(name, self.folder / "JPEGImages" / f"{name}.jpg", labels / f"{name}.xml")


@dataclass(frozen=True, kw_only=True)
class Voc2012(Voc2007):
    """VOCdevkit/VOC2012, as VOC 2007; the annotations of its test images are not public."""

    name: str = "voc2012"
    title: str = "Pascal VOC 2012, boxes (20 classes)"
    splits: tuple[str, ...] = ("trainval", "train", "val")

    year: ClassVar[str] = "2012"
    official_counts: ClassVar[dict[str, int]] = {"trainval": 11540, "train": 5717, "val": 5823}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url=Voc.sources[0].url,
            gives=("VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/Annotations", "VOCdevkit/VOC2012/ImageSets/Main"),
            checksum=Voc.sources[0].checksum,
            bytes=Voc.sources[0].bytes,
        ),
    )


def _xml(item: Item) -> Path:
    if item.label is None:
        raise UserError(f"the item {item.name} has no file; it belongs to another data set")
    return item.label


def _objects(boxes: Float[np.ndarray, "n 4"], classes: np.ndarray, difficult: np.ndarray, truncated: np.ndarray) -> Objects:
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Objects(boxes, classes, np.zeros(len(boxes), bool), areas, difficult=difficult, truncated=truncated)
