"""ImageNet with the boxes of its localisation task (ILSVRC CLS-LOC): 1000 classes, each called by its WordNet id.

Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015. 544546 of the 1281167 train images have boxes,
and all 50000 val images. Annotations are XML files like Pascal VOC's. Their boxes are in px of the image as it was shown to the
annotator, whose size is in the file and may differ from the image's; they are scaled to the image and clipped to it. Corners in
the wrong order are swapped, and boxes of which nothing remains are left out, as in TensorFlow's scripts for this data.
Coordinates count from 0.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.dataset import Item, Source, files_in
from densebench.datasets.io.annotations import reading
from densebench.datasets.io.names import at, check_name, read_lines
from densebench.datasets.io.voc_xml import read_voc
from densebench.errors import UserError

FOLDERS = ("ILSVRC2012", "imagenet", "ILSVRC/Data/CLS-LOC")
"""Where the folders train and val of the images lie below the data root, whichever is there first."""
ANNOTATIONS = "ILSVRC/Annotations/CLS-LOC"
MAPPINGS = ("LOC_synset_mapping.txt", "ILSVRC/LOC_synset_mapping.txt")


@dataclass(frozen=True, kw_only=True)
class ImagenetBoxes(Boxed):
    """ILSVRC/Annotations/CLS-LOC/{train/<wnid>,val}/*.xml, each with its image; the label file of an item is its XML.

    Classes are the sorted WordNet ids of LOC_synset_mapping.txt where there is one, else the folders of train.
    """

    name: str = "imagenet-boxes"
    title: str = "ImageNet with boxes (1000 classes)"
    mapping: str = "imagenet-boxes-v1"
    licence: str = "non-commercial research, registration needed"

    official_counts: ClassVar[dict[str, int]] = {"train": 544546, "val": 50000}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://www.kaggle.com/c/imagenet-object-localization-challenge/data",
            gives=(f"{ANNOTATIONS}/train", f"{ANNOTATIONS}/val"),
            by_hand=(
                "register at the address above, fetch imagenet_object_localization_patched2019.tar.gz and unpack it in the data "
                f"root, so that {ANNOTATIONS}/train and ILSVRC/Data/CLS-LOC/train exist, and LOC_synset_mapping.txt beside "
                f"ILSVRC; images that are elsewhere already may stay in {FOLDERS[0]} or {FOLDERS[1]}"
            ),
        ),
    )

    def __post_init__(self) -> None:
        if not self.classes:
            object.__setattr__(self, "classes", _classes(self.root))

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the annotated images of a split, sorted by class and name.

        Raises UserError where there is no folder of images.
        """
        folder = self._images(split)
        flat = split == "val"
        elsewhere = {path.stem: path for path in folder.glob("*/*.JPEG")} if flat else {}  # by class, as torchvision has them
        for label in files_in(self.root / ANNOTATIONS / split, "*.xml" if flat else "*/*.xml", self.remedy):
            image = folder / ("" if flat else label.parent.name) / f"{label.stem}.JPEG"
            yield Item(label.stem, elsewhere.get(label.stem, image), label)

    def objects(self, item: Item) -> Objects:
        """Return the objects of an image in the order of the file; none is a crowd, and areas are those of the boxes."""
        path = self._xml(item)
        try:
            with reading(path, self.remedy):
                marked = read_voc(path)
                if marked.size is None:
                    raise ValueError("it lacks size")
                classes = np.array([self._class(name) for name in marked.names], np.int64)
        except (ET.ParseError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise UserError(f"{path} is no annotation of ImageNet ({error}); fetch it again") from error
        actual = np.array(self.image_size(item), np.float64)
        ends = np.sort(marked.corners.reshape(-1, 2, 2), axis=1) * (actual / marked.size)
        boxes = np.clip(ends, 0, actual).reshape(-1, 4)
        nonempty = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, classes = boxes[nonempty], classes[nonempty]
        return Objects(boxes, classes, np.zeros(len(boxes), bool), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))

    def annotation(self, item: Item) -> Any:
        """Return the bytes of the XML, the number of classes, and the size that boxes are scaled to."""
        return [self._digests.digest(self._xml(item)), len(self.classes), list(self.image_size(item))]

    def _class(self, name: str) -> int:
        if name not in self.classes:
            raise ValueError(f"{name} is none of its {len(self.classes)} classes")
        return self.classes.index(name)

    def _images(self, split: str) -> Path:
        for folder in FOLDERS:
            if (self.root / folder / split).is_dir():
                return self.root / folder / split
        raise UserError(f"no folder {' or '.join(f'{folder}/{split}' for folder in FOLDERS)} under {self.root}; {self.remedy}")

    def _xml(self, item: Item) -> Path:
        if item.label is None:
            raise UserError(f"the item {item.name} has no file; it belongs to another data set")
        return item.label


def _classes(root: Path) -> tuple[str, ...]:
    for name in MAPPINGS:
        if (root / name).is_file():
            lines = read_lines(root / name, "fetch it again")
            return tuple(sorted({check_name(line.split()[0], at(root / name, number)) for number, line in lines}))
    folder = root / ANNOTATIONS / "train"
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()
