"""DAVIS: densely annotated videos, 480p.

Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation, CVPR 2016: one mask of all objects a
frame. Pont-Tuset et al., The 2017 DAVIS Challenge on Video Object Segmentation, 2017: more videos, every object with its own id.
Both come as a folder DAVIS with the same names in it, so that two data roots are needed for both. DAVIS 2016 can also be read
from the files of DAVIS 2017, which hold its sequences: any id then counts as the one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from densebench.datasets.dataset import Item, Source
from densebench.datasets.videos import VOID, Videos, read_names
from densebench.errors import UserError

LICENCE = "CC BY 4.0 (what the DAVIS authors own)"
RESOLUTION = "480p"


class Folders(Videos):
    """DAVIS/{JPEGImages,Annotations}/480p/<sequence>."""

    @property
    def frames_folder(self) -> Path:
        """DAVIS/JPEGImages/480p."""
        return self.root / "DAVIS" / "JPEGImages" / RESOLUTION

    @property
    def masks_folder(self) -> Path:
        """DAVIS/Annotations/480p."""
        return self.root / "DAVIS" / "Annotations" / RESOLUTION


@dataclass(frozen=True, kw_only=True)
class Davis2016(Folders):
    """ImageSets/2016/<split>.txt, else ImageSets/480p/<split>.txt (the package of 2016); any value above 0 is the object."""

    name: str = "davis2016"
    title: str = "DAVIS 2016, 480p (one object a video)"
    mapping: str = "davis2016-foreground-v1"
    licence: str = LICENCE

    official_counts: ClassVar[dict[str, int]] = {"train": 2079, "val": 1376}
    official_sequences: ClassVar[dict[str, int]] = {"train": 30, "val": 20}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://graphics.ethz.ch/Downloads/Data/Davis/DAVIS-data.zip",
            gives=("DAVIS/JPEGImages/480p", "DAVIS/Annotations/480p"),
        ),
    )

    def names(self, split: str) -> list[str]:
        """Return the sequences of a split, from the list of DAVIS 2016."""
        lists = self.root / "DAVIS" / "ImageSets"
        path = lists / "2016" / f"{split}.txt"
        older = lists / RESOLUTION / f"{split}.txt"
        return read_names(older if older.exists() and not path.exists() else path, self.remedy)

    def ids(self, raw: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Return 1 for the object, whatever its value in the file."""
        return (raw > 0).astype(np.uint8)

    def predicted(self, raw: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Return 1 for any id of a predicted mask: masks made for DAVIS 2017 count as one object."""
        return self.ids(raw)


@dataclass(frozen=True, kw_only=True)
class Davis2017(Folders):
    """ImageSets/2017/{train,val}.txt, ids 1..n. Masks of DAVIS 2016 (255 and no id) are refused: 255 is void here."""

    name: str = "davis2017"
    title: str = "DAVIS 2017, 480p (several objects a video)"
    mapping: str = "davis2017-ids-v1"
    licence: str = LICENCE

    official_counts: ClassVar[dict[str, int]] = {"train": 4209, "val": 1999}
    official_sequences: ClassVar[dict[str, int]] = {"train": 60, "val": 30}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-480p.zip",
            gives=("DAVIS/JPEGImages/480p", "DAVIS/Annotations/480p", "DAVIS/ImageSets/2017"),
        ),
    )

    def names(self, split: str) -> list[str]:
        """Return the sequences of a split, from the list of DAVIS 2017."""
        return read_names(self.root / "DAVIS" / "ImageSets" / "2017" / f"{split}.txt", self.remedy)

    def raw_label(self, item: Item) -> UInt8[np.ndarray, "h w"]:
        """Return the mask as it is. Raises UserError where it is one of DAVIS 2016."""
        raw = super().raw_label(item)
        if (raw == VOID).any() and not ((raw > 0) & (raw < VOID)).any():
            raise UserError(
                f"the mask {item.label} holds {VOID} and no object's id: it is one of DAVIS 2016; "
                "use --dataset davis2016, or fetch DAVIS 2017 into another --data-root"
            )
        return raw
