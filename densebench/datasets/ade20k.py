"""ADE20K, the 150 classes of the scene parsing challenge.

Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017. 20210 train and 2000 val images. In the label files 0 means
"other" and is ignored, k is class k of objectInfo150.txt; here it becomes k - 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from densebench.datasets.dataset import Dataset, Item, Source, files_in

# The first synonym of each line of objectInfo150.txt.
CLASSES = (
    "wall|building|sky|floor|tree|ceiling|road|bed|windowpane|grass|cabinet|sidewalk|person|earth|door|table|mountain|plant|"
    "curtain|chair|car|water|painting|sofa|shelf|house|sea|mirror|rug|field|armchair|seat|fence|desk|rock|wardrobe|lamp|"
    "bathtub|railing|cushion|base|box|column|signboard|chest of drawers|counter|sand|sink|skyscraper|fireplace|refrigerator|"
    "grandstand|path|stairs|runway|case|pool table|pillow|screen door|stairway|river|bridge|bookcase|blind|coffee table|"
    "toilet|flower|book|hill|bench|countertop|stove|palm|kitchen island|computer|swivel chair|boat|bar|arcade machine|hovel|"
    "bus|towel|light|truck|tower|chandelier|awning|streetlight|booth|television|airplane|dirt track|apparel|pole|land|"
    "bannister|escalator|ottoman|bottle|buffet|poster|stage|van|ship|fountain|conveyer belt|canopy|washer|plaything|"
    "swimming pool|stool|barrel|basket|waterfall|tent|bag|minibike|cradle|oven|ball|food|step|tank|trade name|microwave|pot|"
    "animal|bicycle|lake|dishwasher|screen|blanket|sculpture|hood|sconce|vase|traffic light|tray|ashcan|fan|pier|crt screen|"
    "plate|monitor|bulletin board|shower|radiator|glass|clock|flag"
)
FOLDERS = {"train": "training", "val": "validation"}


@dataclass(frozen=True, kw_only=True)
class Ade20k(Dataset):
    """ADEChallengeData2016/images/{training,validation}/*.jpg and annotations/ beside it, sorted by name."""

    name: str = "ade20k"
    title: str = "ADE20K (150 classes)"
    classes: tuple[str, ...] = tuple(CLASSES.split("|"))
    reduce_zero_label: bool = True
    mapping: str = "ade20k-150-v1"
    licence: str = "images for non-commercial research and education"

    official_counts: ClassVar[dict[str, int]] = {"train": 20210, "val": 2000}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            gives=tuple(f"ADEChallengeData2016/{kind}/{part}" for kind in ("images", "annotations") for part in FOLDERS.values()),
            checksum="md5:7328b3957e407ddae1d3cbf487f149ef",
        ),
    )

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the images of the split's folder, sorted by name."""
        folder = self.root / "ADEChallengeData2016"
        for image in files_in(folder / "images" / FOLDERS[split], "*.jpg", self.remedy):
            yield Item(image.stem, image, folder / "annotations" / FOLDERS[split] / f"{image.stem}.png")
