"""COCO 2017 as objects: 80 classes with boxes and masks.

Lin et al., Microsoft COCO, ECCV 2014. 118287 train and 5000 val images, of which 1021 and 48 show no object. Boxes are those
of the JSON, clipped to the image; see `densebench.datasets.io.instances` for the objects that are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from PIL import Image

from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.coco import COUNTS, IMAGES, LICENCE, THINGS
from densebench.datasets.dataset import Item, Source
from densebench.datasets.io.instances import Instances, read_instances
from densebench.errors import UserError

INSTANCES = Source(
    url="http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    gives=tuple(f"coco/annotations/instances_{split}2017.json" for split in COUNTS),
    into="coco",
    checksum="md5:f4bbac642086de4f52a3fdda2de5fa2c",
)


@dataclass(frozen=True, kw_only=True)
class CocoBoxes(Boxed):
    """coco/annotations/instances_{train,val}2017.json with coco/{train,val}2017/*.jpg; all images of the JSON, by id."""

    name: str = "coco-boxes"
    title: str = "COCO boxes and masks (80 classes)"
    classes: tuple[str, ...] = tuple(THINGS.split("|"))
    mapping: str = "coco-boxes-80-v1"
    licence: str = LICENCE

    official_counts: ClassVar[dict[str, int]] = COUNTS
    sources: ClassVar[tuple[Source, ...]] = (*IMAGES, INSTANCES)
    has_masks: ClassVar[bool] = True

    def list_items(self, split: str) -> Iterator[Item]:
        """Return the images of instances_<split>2017.json by id, also those without an object."""
        folder = self.root / "coco" / f"{split}2017"
        return (Item(Path(file).stem, folder / file, None) for file in self._instances(folder.name).files)

    def objects(self, item: Item) -> Objects:
        """Return the objects of an image in the order of the file; crowds are groups.

        Masks are the file's: polygons or run lengths.
        """
        instances, row = self._find(item)
        return instances.objects(row, self._class_table(instances))

    def annotation(self, item: Item) -> Any:
        """Return the size of the image and all that is known of its objects."""
        instances, row = self._find(item)
        objects = self.objects(item)
        lists = (objects.boxes, objects.classes, objects.crowd, objects.areas)
        return [list(instances.size(row)), *(values.tolist() for values in lists), list(objects.masks)]

    def image(self, item: Item) -> Image.Image:
        """Return the image of an item, RGB. Raises UserError where it has another size than the JSON says."""
        image = super().image(item)
        instances, row = self._find(item)
        stated = instances.size(row)
        if stated != image.size:
            raise UserError(
                f"the image {item.image} is {image.width} x {image.height} but {instances.path} says {stated[0]} x {stated[1]} "
                "(width x height); fetch both again"
            )
        return image

    def dropped(self, split: str) -> int:
        """Return how many objects of a split are left out because nothing of their box lies in the image."""
        return self._instances(f"{split}2017").dropped

    def _instances(self, folder: str) -> Instances:
        return read_instances(self.root / "coco" / "annotations" / f"instances_{folder}.json", self.remedy)

    def _find(self, item: Item) -> tuple[Instances, int]:
        if item.image is None:
            raise UserError(f"the item {item.name} has no file; it belongs to another data set")
        instances = self._instances(item.image.parent.name)
        if item.name not in instances.rows:
            raise UserError(f"{instances.path} says nothing about {item.image.name}; fetch both again")
        return instances, instances.rows[item.name]

    def _class_table(self, instances: Instances) -> Int[np.ndarray, "ids"]:
        """Return category id -> class. Raises UserError where the categories are not the official 80: it is another release."""
        names = instances.names
        if sorted(names.values()) != sorted(self.classes):
            strange = sorted(set(names.values()) ^ set(self.classes)) or ["one that is there twice"]
            raise UserError(
                f"{instances.path} has {len(names)} categories that are not the official {len(self.classes)} "
                f"(the first that differs is {strange[0]}); fetch it again"
            )
        table = np.full(max(names) + 1, -1)
        table[list(names)] = [self.classes.index(name) for name in names.values()]
        return table
