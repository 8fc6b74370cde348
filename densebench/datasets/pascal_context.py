"""Pascal Context: VOC 2010 images with every pixel labelled, 60 classes with the background or 59 without.

Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014. 4998 train and
5105 val images. The label files are those that MMSegmentation's converter writes: 0 background, 1 to 59 the classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from densebench.datasets.dataset import Dataset, Item, Source
from densebench.datasets.io.names import read_list

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant sheep sofa train "
    "tvmonitor bag bed bench book building cabinet ceiling cloth computer cup door fence floor flower food grass ground "
    "keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk sky snow bedclothes track tree "
    "truck wall water window wood"
)
FOLDER = "VOCdevkit/VOC2010"


@dataclass(frozen=True, kw_only=True)
class PascalContext(Dataset):
    """VOCdevkit/VOC2010 with SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt."""

    name: str = "pascal-context"
    title: str = "Pascal Context (59 classes and background)"
    classes: tuple[str, ...] = ("background", *CLASSES.split())
    background: int | None = 0
    mapping: str = "pascal-context-60-v1"
    licence: str = "images under Flickr's terms of use; annotations for research"

    official_counts: ClassVar[dict[str, int]] = {"train": 4998, "val": 5105}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
            gives=(f"{FOLDER}/JPEGImages",),
            checksum="md5:da459979d0c395079b5c75ee67908abb",
        ),
        Source(
            url="https://codalabuser.blob.core.windows.net/public/trainval_merged.json",
            gives=(f"{FOLDER}/SegmentationClassContext", f"{FOLDER}/ImageSets/SegmentationContext/train.txt"),
            by_hand=(
                "labels: fetch trainval_merged.json from the address above and convert it with the Detail API and "
                "MMSegmentation's tools/dataset_converters/pascal_context.py; put the label maps in "
                f"{FOLDER}/SegmentationClassContext and the lists in {FOLDER}/ImageSets/SegmentationContext"
            ),
        ),
    )

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield an item for each name of ImageSets/SegmentationContext/<split>.txt, in its order."""
        folder = self.root / FOLDER
        for name in read_list(folder / "ImageSets" / "SegmentationContext" / f"{split}.txt", self.remedy):
            yield Item(name, folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClassContext" / f"{name}.png")


@dataclass(frozen=True, kw_only=True)
class PascalContext59(PascalContext):
    """The files of `PascalContext`; background pixels are ignored."""

    name: str = "pascal-context-59"
    title: str = "Pascal Context (59 classes)"
    classes: tuple[str, ...] = tuple(CLASSES.split())
    background: int | None = None
    reduce_zero_label: bool = True
    mapping: str = "pascal-context-59-v1"
