"""Data sets of salient objects: ECSSD, DUTS (test) and DUT-OMRON, each pixel the object's or not.

Shi et al., Hierarchical Image Saliency Detection on Extended CSSD, TPAMI 2016: 1000 images; Wang et al., Learning to Detect
Salient Objects with Image-level Supervision, CVPR 2017: 5019 test images; Yang et al., Saliency Detection via Graph-Based
Manifold Ranking, CVPR 2013: 5168 images. All images are scored, as TokenCut does (Wang et al., CVPR 2022). Masks are greys from 0
to 255, and some may be smooth at their edges: every value above 0 is the object, as TokenCut's evaluation counts; from 128 on
would be another number. Colours of a mask are converted to grey by Pillow.

A folder of one's own with masks is `folder:DIR`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int16, UInt8

from densebench.datasets.dataset import Dataset, Item, Source, files_in
from densebench.datasets.io.decoding import opened
from densebench.errors import UserError

LICENCE = "research; the authors of the images keep their rights"
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""What a mask may be stored as: whatever Pillow converts to grey without a choice of scale."""


@dataclass(frozen=True, kw_only=True)
class Saliency(Dataset):
    """Base of the three. A subclass gives `layouts`: folders of images and of masks, of which the first that are there count."""

    classes: tuple[str, ...] = ("background", "object")
    splits: tuple[str, ...] = ("test",)
    train_split: str = "test"
    val_split: str = "test"
    background: int | None = 0
    licence: str = LICENCE

    layouts: ClassVar[tuple[tuple[str, str], ...]] = ()

    def state(self) -> Literal["present", "partly", "absent"]:
        """Return whether the folders of one layout are there."""
        found = [[(self.root / folder).is_dir() for folder in layout] for layout in self.layouts]
        return "present" if any(map(all, found)) else "partly" if any(map(any, found)) else "absent"

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the .jpg of the folder of images, sorted by name, each with the .png of its name in the folder of masks."""
        images, masks = (self.root / folder for folder in self._layout())
        for image in files_in(images, "*.jpg", self.remedy):
            yield Item(image.stem, image, masks / f"{image.stem}.png")

    def label_table(self) -> Int16[np.ndarray, "256"]:
        """Return the table in which every value above 0 is the object; no pixel is ignored."""
        return (np.arange(256) > 0).astype(np.int16)

    def raw_label(self, item: Item) -> UInt8[np.ndarray, "h w"]:
        """Return a mask as grey. Raises UserError where the file is missing, broken, or has more than 8 bits a channel."""
        if item.label is None:
            raise UserError(f"the item {item.name} has no file; it belongs to another data set")
        with opened(item.label, f"the mask {item.label}") as mask:
            if mask.mode not in MODES:
                raise UserError(f"the mask {item.label} has mode {mask.mode}, not {', '.join(MODES)}; convert it")
            return np.array(mask.convert("L"))

    def _layout(self) -> tuple[str, str]:
        there = (layout for layout in self.layouts if all((self.root / folder).is_dir() for folder in layout))
        return next(there, self.layouts[0])


@dataclass(frozen=True, kw_only=True)
class Ecssd(Saliency):
    """ECSSD/{images,ground_truth_mask}, or ECSSD/{img,gt} as TokenCut has it."""

    name: str = "ecssd"
    title: str = "ECSSD, salient objects (2 classes)"
    mapping: str = "ecssd-nonzero-v1"

    layouts: ClassVar[tuple[tuple[str, str], ...]] = (("ECSSD/images", "ECSSD/ground_truth_mask"), ("ECSSD/img", "ECSSD/gt"))
    official_counts: ClassVar[dict[str, int]] = {"test": 1000}
    sources: ClassVar[tuple[Source, ...]] = tuple(
        Source(
            url=f"https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/data/ECSSD/{folder}.zip",
            gives=(f"ECSSD/{folder}",),
            into="ECSSD",
        )
        for folder in ("images", "ground_truth_mask")
    )


@dataclass(frozen=True, kw_only=True)
class DutsTest(Saliency):
    """DUTS-TE/{DUTS-TE-Image,DUTS-TE-Mask}, or DUTS_Test/{img,gt} as TokenCut has it."""

    name: str = "duts-te"
    title: str = "DUTS, test: salient objects (2 classes)"
    mapping: str = "duts-te-nonzero-v1"

    layouts: ClassVar[tuple[tuple[str, str], ...]] = (
        ("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"),
        ("DUTS_Test/img", "DUTS_Test/gt"),
    )
    official_counts: ClassVar[dict[str, int]] = {"test": 5019}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(url="http://saliencydetection.net/duts/download/DUTS-TE.zip", gives=layouts[0]),
    )


@dataclass(frozen=True, kw_only=True)
class DutOmron(Saliency):
    """DUT-OMRON/{DUT-OMRON-image,pixelwiseGT-new-PNG}, or DUT_OMRON/{img,gt} as TokenCut has it."""

    name: str = "dut-omron"
    title: str = "DUT-OMRON, salient objects (2 classes)"
    mapping: str = "dut-omron-nonzero-v1"

    layouts: ClassVar[tuple[tuple[str, str], ...]] = (
        ("DUT-OMRON/DUT-OMRON-image", "DUT-OMRON/pixelwiseGT-new-PNG"),
        ("DUT_OMRON/img", "DUT_OMRON/gt"),
    )
    official_counts: ClassVar[dict[str, int]] = {"test": 5168}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="http://saliencydetection.net/dut-omron/download/DUT-OMRON-image.zip",
            gives=(layouts[0][0],),
            into="DUT-OMRON",
        ),
        Source(
            url="http://saliencydetection.net/dut-omron/download/DUT-OMRON-gt-pixelwise.zip.zip",
            gives=(layouts[0][1],),
            into="DUT-OMRON",
        ),
    )
