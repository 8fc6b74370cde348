"""COCO as objects: 80 classes with boxes and masks, of 2017 and, as COCO-20k, a part of 2014.

Lin et al., Microsoft COCO, ECCV 2014. 118287 train and 5000 val images, of which 1021 and 48 show no object. Boxes are those
of the JSON, clipped to the image; see `densebench.datasets.io.instances` for the objects that are left out.

COCO-20k is what object discovery is scored on since Vo et al. (Toward unsupervised, multi-object discovery in large-scale image
collections, ECCV 2020): 19817 images of train2014, in the list that LOST and TokenCut ship. As LOST's code reads it, crowds are
no objects, and corners are rounded to whole px, halves to the even one. Boxes that are empty then are left out, but of the truth:
LOST keeps them, and no box reaches an IoU of 0.5 with one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.coco import COUNTS, IMAGES, LICENCE, THINGS
from densebench.datasets.dataset import Item, Source
from densebench.datasets.io.instances import Instances, read_instances
from densebench.datasets.io.names import at, check_name, read_lines
from densebench.errors import UserError

INSTANCES = Source(
    url="http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    gives=tuple(f"coco/annotations/instances_{split}2017.json" for split in COUNTS),
    into="coco",
    checksum="md5:f4bbac642086de4f52a3fdda2de5fa2c",
)

LIST_20K = "coco/coco_20k_filenames.txt"


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
    year: ClassVar[str] = "2017"

    def list_items(self, split: str) -> Iterator[Item]:
        """Return the images of instances_<split>2017.json by id, also those without an object."""
        folder = self.root / "coco" / f"{split}{self.year}"
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
        return self._instances(f"{split}{self.year}").dropped

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


@dataclass(frozen=True, kw_only=True)
class Coco20k(CocoBoxes):
    """coco/annotations/instances_train2014.json with coco/train2014/*.jpg; the images of coco/coco_20k_filenames.txt, by id.

    A line of the list is train2014/COCO_train2014_<id>.jpg, or the name of the file alone.
    """

    name: str = "coco20k"
    title: str = "COCO-20k boxes and masks (80 classes)"
    splits: tuple[str, ...] = ("train",)
    val_split: str = "train"
    mapping: str = "coco20k-rounded-v1"

    year: ClassVar[str] = "2014"
    official_counts: ClassVar[dict[str, int]] = {"train": 19817}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="http://images.cocodataset.org/zips/train2014.zip",
            gives=("coco/train2014",),
            into="coco",
            checksum="md5:0da8c0bd3d6becc4dcb32757491aca88",
        ),
        Source(
            url="http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
            gives=("coco/annotations/instances_train2014.json",),
            into="coco",
        ),
        Source(
            url="https://github.com/valeoai/LOST/blob/master/datasets/coco_20k_filenames.txt",
            gives=(LIST_20K,),
            by_hand=f"save the list of the 19817 names, the raw file at the address above, as {LIST_20K}",
        ),
    )

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the images of the list by id. Raises UserError for a name that the JSON lacks or that is listed twice."""
        folder, path = self.root / "coco" / f"{split}{self.year}", self.root / LIST_20K
        instances, files = self._instances(folder.name), dict[str, str]()
        for number, line in read_lines(path, self.remedy):
            file = check_name(line, at(path, number)).rpartition("/")[2]
            if Path(file).stem not in instances.rows:
                raise UserError(f"{at(path, number)} names {file}, about which {instances.path} says nothing; fetch both again")
            if Path(file).stem in files:
                raise UserError(f"{at(path, number)} names {file} a second time; fetch the list again")
            files[Path(file).stem] = file
        return (Item(stem, folder / files[stem], None) for stem in sorted(files))

    def objects(self, item: Item) -> Objects:
        """Return the objects of an image with rounded corners in the order of the file, without crowds and empty boxes."""
        whole = self.truth(item)
        return _chosen(whole, np.all(whole.boxes[:, 2:] > whole.boxes[:, :2], axis=1))

    def truth(self, item: Item) -> Objects:
        """Return what `objects` does, and boxes that rounding has emptied."""
        exact = super().objects(item)
        return _chosen(replace(exact, boxes=np.rint(exact.boxes)), ~exact.crowd)


def _chosen(objects: Objects, kept: Bool[np.ndarray, "n"]) -> Objects:
    """Return some of the objects of an image; COCO marks none of them."""
    masks = tuple(mask for mask, keep in zip(objects.masks, kept, strict=True) if keep)
    return Objects(objects.boxes[kept], objects.classes[kept], objects.crowd[kept], objects.areas[kept], masks)
