"""SPair-71k: pairs of pictures of 18 classes with named keypoints, boxes, and how much the two differ.

Min et al., SPair-71k: A Large-scale Benchmark for Semantic Correspondence, 2019. 12234 test, 5384 val and 53340 trn pairs of 1800
pictures. A pair's own file says all that is used: keypoints in px of the two pictures, `kps_ids`, which name them among the 30 of
their class, boxes x1, y1, x2, y2, and by how many levels viewpoint, scale, truncation and occlusion vary.

Pairs are in the order of their names, the same on every machine; code that lists the folder gets them in the order of its file
system.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from densebench.datasets.dataset import Item, Source, files_in
from densebench.datasets.io.names import check_name, read_list
from densebench.datasets.io.pair_files import box_of, numbers, parsing, read_json
from densebench.datasets.keypoints import KeypointPairs, Pair

FOLDER = "SPair-71k"
CLASSES = "aeroplane bicycle bird boat bottle bus car cat chair cow dog horse motorbike person pottedplant sheep train tvmonitor"
PARTS = 30
LEVELS = {"viewpoint_variation": "viewpoint", "scale_variation": "scale", "truncation": "truncation", "occlusion": "occlusion"}
"""Key of a pair's file -> name of the level."""


@dataclass(frozen=True, kw_only=True)
class Spair71k(KeypointPairs):
    """SPair-71k/{JPEGImages/<class>/<id>.jpg,PairAnnotation/<split>/<pair>.json,Layout/large/<split>.txt}.

    Where there is no list of pairs in Layout, all files of PairAnnotation are taken.
    """

    name: str = "spair71k"
    title: str = "SPair-71k, pairs with keypoints (18 classes)"
    classes: tuple[str, ...] = tuple(CLASSES.split())
    splits: tuple[str, ...] = ("test", "val", "trn")
    train_split: str = "test"
    val_split: str = "test"
    mapping: str = "spair71k-v1"
    licence: str = "pictures under the terms of use of Pascal VOC and Flickr"

    official_pairs: ClassVar[dict[str, int]] = {"test": 12234, "val": 5384, "trn": 53340}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz",
            gives=(f"{FOLDER}/JPEGImages", f"{FOLDER}/PairAnnotation"),
        ),
    )

    def list_pairs(self, split: str) -> Iterator[Pair]:
        """Yield the pairs by name. Raises UserError where a picture has another size than a pair says."""
        folder = self.root / FOLDER / "PairAnnotation" / split
        listed = self.root / FOLDER / "Layout" / "large" / f"{split}.txt"
        names = read_list(listed, self.remedy) if listed.exists() else [path.stem for path in self._files(folder)]
        for name in sorted(names):
            path = folder / f"{name}.json"
            content = read_json(path, self.remedy)
            with parsing(f"{path} is no pair of SPair-71k", "fetch it again"):
                yield self._pair(name, content, path)

    def _files(self, folder: Path) -> list[Path]:
        return files_in(folder, "*.json", self.remedy)

    def _pair(self, name: str, content: Any, path: Path) -> Pair:
        category = content["category"]
        if category not in self.classes:
            raise ValueError(f"its category is {str(category)[:40]!r}, which is none of {', '.join(self.classes)}")
        items, points, boxes = [], [], []
        for side in ("src", "trg"):
            item = self._item(category, content[f"{side}_imname"], path)
            width, height = content[f"{side}_imsize"][:2]
            self.check_stated_size(item, (width, height), path)
            items.append(item)
            points.append(_points(content[f"{side}_kps"], f"{side}_kps"))
            boxes.append(box_of(content[f"{side}_bndbox"], f"{side}_bndbox"))
        parts = np.array([int(str(each)) for each in content["kps_ids"]], np.int64)
        if not len(parts) == len(points[0]) == len(points[1]):
            raise ValueError(f"src_kps, trg_kps and kps_ids have {len(points[0])}, {len(points[1])} and {len(parts)} rows")
        if len(set(parts.tolist())) < len(parts) or (parts < 0).any() or (parts >= PARTS).any():
            raise ValueError(f"kps_ids are {parts.tolist()}, not different numbers from 0 to {PARTS - 1}")
        levels = tuple((level, int(str(content[key]))) for key, level in LEVELS.items())
        return Pair(name, items[0], items[1], category, points[0], points[1], parts, boxes[0], boxes[1], levels)

    def _item(self, category: str, file: Any, path: Path) -> Item:
        name = check_name(file, f"{path}")
        return Item(f"{category}/{PurePath(name).stem}", self.root / FOLDER / "JPEGImages" / category / name, None)


def _points(rows: Any, what: str) -> Float[np.ndarray, "k 2"]:
    points = [numbers(row, what) for row in rows]
    if any(len(point) != 2 for point in points):
        raise ValueError(f"{what} has a row that is not x, y")
    return np.array(points, np.float64).reshape(-1, 2)
