"""Pascal VOC 2012 segmentation, with the additional labels of SBD (trainaug).

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2015; Hariharan et al., Semantic Contours from Inverse
Detectors, ICCV 2011. 21 classes with the background; 1464 train, 1449 val and 10582 trainaug images; 255 marks the void
borders, which SBD's label maps do not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from densebench.datasets.dataset import Dataset, Item, Source
from densebench.datasets.io.names import read_list
from densebench.errors import UserError
from densebench.pictures.palette import Colour, voc_palette

CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
)
AUG = "VOCdevkit/VOC2012/SegmentationClassAug"
AUG_LIST = "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt"


@dataclass(frozen=True, kw_only=True)
class Voc(Dataset):
    """Labels of trainaug are read from SegmentationClassAug, those of train, val and trainval from SegmentationClass."""

    name: str = "voc"
    title: str = "Pascal VOC 2012"
    classes: tuple[str, ...] = tuple(CLASSES.split())
    splits: tuple[str, ...] = ("train", "val", "trainval", "trainaug")
    train_split: str = "trainaug"
    background: int | None = 0
    mapping: str = "voc-21-v1"
    licence: str = "images under Flickr's terms of use; annotations for research"

    official_counts: ClassVar[dict[str, int]] = {"train": 1464, "val": 1449, "trainval": 2913, "trainaug": 10582}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            gives=("VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/SegmentationClass"),
            checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
            bytes=1_999_639_040,
        ),
        Source(
            url="http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
            gives=(AUG, AUG_LIST),
            by_hand=(
                f"trainaug: put the label maps that are known as SegmentationClassAug (VOC's own and SBD's, as PNG with VOC's "
                f"ids) in {AUG} and the list of the 10582 names in {AUG_LIST}. Most re-implementations of DeepLab link to "
                "the two; SBD itself, in MATLAB's format, is at the address above"
            ),
        ),
    )

    @property
    def folder(self) -> Path:
        """The folder of VOC 2012 below the data root."""
        return self.root / "VOCdevkit" / "VOC2012"

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield an item for each name of ImageSets/Segmentation/<split>.txt, in its order."""
        labels = self.folder / ("SegmentationClassAug" if split == "trainaug" else "SegmentationClass")
        names = read_list(self.folder / "ImageSets" / "Segmentation" / f"{split}.txt", self.remedy)
        if not labels.is_dir():
            raise UserError(f"the folder {labels} is missing; {self.remedy}")
        for name in names:
            yield Item(name, self.folder / "JPEGImages" / f"{name}.jpg", labels / f"{name}.png")

    def palette(self) -> list[Colour]:
        """Return the official colour map."""
        return voc_palette(len(self.classes))
