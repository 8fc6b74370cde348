"""The user's own folder of images and objects in boxes: `boxes:DIR`.

Objects come from one of these; `densebench.datasets.folders.boxes` finds them and prints what it found in one line:

    DIR/x.json or DIR/annotations/x.json     COCO's instances JSON; or one a split, such as train.json and val.json
    DIR/<split>/x.json                       the same in folders of splits
    DIR/Annotations/x.xml                    Pascal VOC's XML, one an image; images in JPEGImages, images, ... or at the top
    DIR/x.xml or DIR/<split>/x.xml           the same beside the images

Splits are those of the files or folders, else those of the lists train.txt and val.txt (at the top, in ImageSets, ImageSets/Main,
splits or lists). Otherwise all images are one split, `all`: what scores without learning scores all of them, and
`boxes:DIR?val=0.2` draws a part by seed for what learns. Keys behind the name or in DIR/classes.toml, as `folder:DIR` has them:
images, labels, seed, val, and in the file alone classes (their order) and splits.

Pixels of XML files count from 1 and boxes include the last one, as Pascal VOC's; COCO's boxes are taken as they are. Both are
clipped to the image.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.dataset import Item
from densebench.datasets.io.instances import Instances, read_instances
from densebench.datasets.voc_boxes import VocXml
from densebench.errors import UserError

REMEDY = "see densebench.datasets.box_folder for the layouts"


@dataclass(frozen=True, kw_only=True)
class BoxFolder(Boxed):
    """Base of the two kinds. `root` is the folder; entries: the images of each split; split_rule: how they came about."""

    entries: tuple[tuple[str, tuple[Item, ...]], ...] = ()
    layout: str = ""
    split_rule: str = ""

    @property
    def remedy(self) -> str:
        """Where the layouts are described; nothing can be fetched."""
        return REMEDY

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the images of a split, sorted by name or in the order of its list."""
        yield from dict(self.entries)[split]

    def facts(self) -> dict[str, Any]:
        """Return what `Dataset.facts` says, and what was inferred."""
        return {**super().facts(), "layout": self.layout, "split_rule": self.split_rule}


@dataclass(frozen=True, kw_only=True)
class XmlFolder(BoxFolder, VocXml):
    """A folder with Pascal VOC's XML for each image."""


@dataclass(frozen=True, kw_only=True)
class CocoFolder(BoxFolder):
    """A folder with COCO's instances JSON; the label file of an item is the JSON that lists its image."""

    def objects(self, item: Item) -> Objects:
        """Return the objects of an image in the order of the file; crowds are groups.

        Raises UserError for a JSON that is missing or broken, or says another size than the image has.
        """
        instances, row = self._find(item)
        stated, actual = instances.size(row), self.image_size(item)
        if stated != actual:
            raise UserError(
                f"the image {item.image} is {actual[0]} x {actual[1]} but {instances.path} says {stated[0]} x {stated[1]} "
                "(width x height); export one of them again"
            )
        return instances.objects(row, self._table(instances))

    def annotation(self, item: Item) -> Any:
        """Return the size of the image and all that is known of its objects."""
        objects = self.objects(item)
        lists = (objects.boxes, objects.classes, objects.crowd, objects.areas)
        return [list(self.image_size(item)), *(values.tolist() for values in lists), list(objects.masks)]

    def _find(self, item: Item) -> tuple[Instances, int]:
        if item.image is None or item.label is None:
            raise UserError(f"the item {item.name} has no file; it belongs to another data set")
        instances = read_instances(item.label, REMEDY, boxes_alone=True)
        if item.image.stem not in instances.rows:
            raise UserError(f"{item.label} says nothing about {item.image.name}; it has changed: open the folder again")
        return instances, instances.rows[item.image.stem]

    def _table(self, instances: Instances) -> np.ndarray:
        return _class_table(tuple(sorted(instances.names.items())), self.classes, instances.path)


@dataclass(frozen=True, kw_only=True)
class CocoMaskFolder(CocoFolder):
    """The same where every object has a mask."""

    has_masks: ClassVar[bool] = True


@functools.lru_cache(maxsize=16)
def _class_table(names: tuple[tuple[int, str], ...], classes: tuple[str, ...], path: Path) -> np.ndarray:
    """Return category id -> class. Raises UserError for a category that is no class."""
    table = np.full(max((number for number, _ in names), default=0) + 1, -1)
    for number, name in names:
        if name not in classes:
            raise UserError(f"{path} has the category {name[:40]!r}, none of the {len(classes)} classes; list it among them")
        table[number] = classes.index(name)
    return table
