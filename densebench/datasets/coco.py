"""COCO 2017 in three labelings: COCO-Stuff 164k (171 classes), COCO-Things (12) and COCO-Stuff (15 coarse classes).

Lin et al., Microsoft COCO, ECCV 2014; Caesar et al., COCO-Stuff, CVPR 2018; Kirillov et al., Panoptic Segmentation, CVPR 2019.
118287 train and 5000 val images. The coarse classes are the supercategories of the official JSON in alphabetical order, as
Leopart (Ziegler and Asano, CVPR 2022) and open-hummingbird-eval take them: COCO-Things ignores stuff and unlabelled pixels,
COCO-Stuff ignores things, "other" and unlabelled pixels.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from densebench.datasets.dataset import Dataset, Item, Source, files_in
from densebench.datasets.io.annotations import reading_coco
from densebench.datasets.io.panoptic import Panoptic, categories_of, read_panoptic
from densebench.datasets.label_maps import IGNORED, INVALID
from densebench.errors import UserError
from densebench.files.atomic import check_ordinary

THINGS = (
    "person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|parking meter|bench|bird|"
    "cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie|suitcase|frisbee|skis|snowboard|"
    "sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle|wine glass|cup|fork|knife|spoon|"
    "bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed|dining table|"
    "toilet|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|book|clock|vase|scissors|"
    "teddy bear|hair drier|toothbrush"
)
STUFF = (
    "banner|blanket|branch|bridge|building-other|bush|cabinet|cage|cardboard|carpet|ceiling-other|ceiling-tile|cloth|clothes|"
    "clouds|counter|cupboard|curtain|desk-stuff|dirt|door-stuff|fence|floor-marble|floor-other|floor-stone|floor-tile|"
    "floor-wood|flower|fog|food-other|fruit|furniture-other|grass|gravel|ground-other|hill|house|leaves|light|mat|metal|"
    "mirror-stuff|moss|mountain|mud|napkin|net|paper|pavement|pillow|plant-other|plastic|platform|playingfield|railing|"
    "railroad|river|road|rock|roof|rug|salad|sand|sea|shelf|sky-other|skyscraper|snow|solid-other|stairs|stone|straw|"
    "structural-other|table|tent|textile-other|towel|tree|vegetable|wall-brick|wall-concrete|wall-other|wall-panel|wall-stone|"
    "wall-tile|wall-wood|water-other|waterdrops|window-blind|window-other|wood"
)
# Raw values of stuffthingmaps that COCO never annotated: street sign, hat, shoe, eye glasses, plate, mirror, window, desk,
# door, blender, hair brush.
GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
COARSE_THINGS = "accessory animal appliance electronic food furniture indoor kitchen outdoor person sports vehicle"
COARSE_STUFF = (
    "building ceiling floor food-stuff furniture-stuff ground plant raw-material sky solid structural textile wall water window"
)
COUNTS = {"train": 118287, "val": 5000}
IMAGES = (
    Source(
        url="http://images.cocodataset.org/zips/train2017.zip",
        gives=("coco/train2017",),
        into="coco",
        checksum="md5:cced6f7f71b7629ddf16f17bbcfab6b2",
    ),
    Source(
        url="http://images.cocodataset.org/zips/val2017.zip",
        gives=("coco/val2017",),
        into="coco",
        checksum="md5:442b8da7639aecaf257c1dceb8ba8c80",
        bytes=815_585_330,
    ),
)
PANOPTIC_MAPS = Source(
    url="http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip",
    gives=tuple(f"coco/annotations/panoptic_{split}2017{suffix}" for split in COUNTS for suffix in ("", ".json")),
    into="coco",
    nested=("annotations/panoptic_train2017.zip", "annotations/panoptic_val2017.zip"),
    checksum="md5:4170db65fc022c9c296af880dbca6055",
)
STUFF_MAPS = Source(
    url="http://images.cocodataset.org/annotations/stuff_annotations_trainval2017.zip",
    gives=tuple(f"coco/annotations/stuff_{split}2017{suffix}" for split in COUNTS for suffix in ("_pixelmaps", ".json")),
    into="coco",
    nested=("annotations/stuff_train2017_pixelmaps.zip", "annotations/stuff_val2017_pixelmaps.zip"),
    checksum="md5:2a27c15a2dfcbd2e1c9276dc23cac101",
)
LICENCE = "annotations CC BY 4.0; each image under its own Flickr licence"


@dataclass(frozen=True, kw_only=True)
class CocoStuff164k(Dataset):
    """coco/{train,val}2017/*.jpg with coco/stuffthingmaps/{train,val}2017/*.png, sorted by name."""

    name: str = "coco-stuff164k"
    title: str = "COCO-Stuff 164k (171 classes)"
    classes: tuple[str, ...] = tuple(f"{THINGS}|{STUFF}".split("|"))
    mapping: str = "coco-stuff164k-171-v1"
    licence: str = LICENCE

    official_counts: ClassVar[dict[str, int]] = COUNTS
    sources: ClassVar[tuple[Source, ...]] = (
        *IMAGES,
        Source(
            url="http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
            gives=("coco/stuffthingmaps/train2017", "coco/stuffthingmaps/val2017"),
            into="coco/stuffthingmaps",
        ),
    )

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the label maps of the split's folder, sorted by name, each with its image."""
        folder = self.root / "coco"
        for label in files_in(folder / "stuffthingmaps" / f"{split}2017", "*.png", self.remedy):
            yield Item(label.stem, folder / f"{split}2017" / f"{label.stem}.jpg", label)

    def label_table(self) -> np.ndarray:
        """Return the table in which raw ids 0 to 181 without the eleven gaps become 0 to 170, and 255 is ignored."""
        table = np.full(256, INVALID, np.int16)
        table[[value for value in range(182) if value not in GAPS]] = np.arange(len(self.classes))
        table[IGNORED] = IGNORED
        return table


@dataclass(frozen=True, kw_only=True)
class CocoThings(Dataset):
    """coco/annotations/panoptic_{train,val}2017.json and the folders of PNGs beside them; the images of the JSON by name."""

    name: str = "coco-things"
    title: str = "COCO-Things (12 coarse classes)"
    classes: tuple[str, ...] = tuple(COARSE_THINGS.split())
    mapping: str = "coco-things-12-v1"
    licence: str = LICENCE

    official_counts: ClassVar[dict[str, int]] = COUNTS
    sources: ClassVar[tuple[Source, ...]] = (*IMAGES, PANOPTIC_MAPS)
    things: ClassVar[bool] = True

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the annotated images of panoptic_<split>2017.json, sorted by name."""
        folder = self.root / "coco"
        labels = folder / "annotations" / f"panoptic_{split}2017"
        for stem in sorted(read_panoptic(labels.with_suffix(".json"), self.remedy).segments):
            yield Item(stem, folder / f"{split}2017" / f"{stem}.jpg", labels / f"{stem}.png")

    def label(self, item: Item) -> np.ndarray:
        """Return the coarse class of each pixel, as `Dataset.label`; the JSON says what each segment is."""
        panoptic, path = self._panoptic(item)
        categories = panoptic.categories_of(path)
        self.check_size(item, categories.shape)
        return self._coarse(panoptic)[categories]

    def label_identity(self, item: Item) -> str:
        """Return the mapping, and what the JSON says about the segments of the image."""
        panoptic, path = self._panoptic(item)
        ids, categories = panoptic.segments[path.stem]
        return f"{self.mapping}:{ids.tolist()}:{self._coarse(panoptic)[categories].tolist()}"

    def _panoptic(self, item: Item) -> tuple[Panoptic, Path]:
        if item.label is None:
            raise UserError(f"the item {item.name} has no file; it belongs to another data set")
        return read_panoptic(item.label.parent.with_suffix(".json"), self.remedy), item.label

    def _coarse(self, panoptic: Panoptic) -> np.ndarray:
        wanted = [category for category in panoptic.categories if bool(category["isthing"]) is self.things]
        return coarse_table(wanted, self.classes, str(panoptic.path)).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class CocoStuff(CocoThings):
    """Labels from annotations/stuff_{train,val}2017_pixelmaps/*.png where there are such folders, else from the panoptic files.

    The two differ: the panoptic release merged and dropped some stuff classes and leaves out small stuff segments. The
    published numbers use the pixel maps. `labels_from` says which is in use ("pixelmaps" or "panoptic"), and so does every
    digest.
    """

    name: str = "coco-stuff"
    title: str = "COCO-Stuff (15 coarse classes)"
    classes: tuple[str, ...] = tuple(COARSE_STUFF.split())
    mapping: str = "coco-stuff-15-v1"

    sources: ClassVar[tuple[Source, ...]] = (*IMAGES, STUFF_MAPS)
    things: ClassVar[bool] = False

    @property
    def labels_from(self) -> str:
        """Where the labels come from: "pixelmaps" if one split has them (then all splits must), else "panoptic"."""
        return "pixelmaps" if any(self._pixelmaps(split).is_dir() for split in self.splits) else "panoptic"

    def facts(self) -> dict[str, Any]:
        """Return what `Dataset.facts` says, and where the labels come from."""
        return {**CocoThings.facts(self), "labels_from": self.labels_from}

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the pixel maps of the split's folder, or the images of panoptic_<split>2017.json, sorted by name."""
        if self.labels_from == "panoptic":
            yield from CocoThings.list_items(self, split)
            return
        for label in files_in(self._pixelmaps(split), "*.png", self.remedy):
            yield Item(label.stem, self.root / "coco" / f"{split}2017" / f"{label.stem}.jpg", label)

    def label(self, item: Item) -> np.ndarray:
        """Return the coarse class of each pixel, as `Dataset.label`."""
        return Dataset.label(self, item) if self._is_pixelmap(item) else CocoThings.label(self, item)

    def label_table(self) -> np.ndarray:
        """Return the table of the pixel maps: 0 (things) and 183 (other) are ignored, 92 to 182 have a supercategory."""
        path = self.root / "coco" / "annotations" / "stuff_val2017.json"
        categories = _read_categories(path, self.remedy)
        table = coarse_table([c for c in categories if c["supercategory"] != "other"], self.classes, str(path))
        allowed = [0, *(category["id"] for category in categories)]
        return np.where(np.isin(np.arange(256), allowed), table[:256], INVALID).astype(np.int16)

    def label_identity(self, item: Item) -> str:
        """Return the mapping and what it maps: pixel maps by their table, or panoptic files."""
        if self._is_pixelmap(item):
            return f"{self.mapping}:pixelmaps:{self.label_table().tolist()}"
        return f"{CocoThings.label_identity(self, item)}:panoptic"

    def _pixelmaps(self, split: str) -> Path:
        return self.root / "coco" / "annotations" / f"stuff_{split}2017_pixelmaps"

    def _is_pixelmap(self, item: Item) -> bool:
        return item.label is not None and item.label.parent.name.endswith("_pixelmaps")


def coarse_table(categories: list[dict[str, Any]], classes: tuple[str, ...], where: str) -> np.ndarray:
    """Return category id -> rank of its supercategory in alphabetical order, int16 [256]; 255 for every other id.

    Raises UserError where the supercategories are not the expected classes: the JSON is then of another release.
    """
    names = tuple(sorted({category["supercategory"] for category in categories}))
    if names != classes:
        raise UserError(
            f"{where} has the supercategories {', '.join(names)}, not the official {', '.join(classes)}; fetch it again"
        )
    table = np.full(256, IGNORED, np.int16)
    for category in categories:
        table[category["id"]] = names.index(category["supercategory"])
    return table


def _read_categories(path: Path, remedy: str) -> list[dict[str, Any]]:
    with reading_coco(path, remedy, "annotation"):
        check_ordinary(path)
        return _parse_categories(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _parse_categories(path: Path, changed: int) -> list[dict[str, Any]]:
    return categories_of(json.loads(path.read_text(encoding="utf-8")))
