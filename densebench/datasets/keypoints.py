"""Data sets of pairs of pictures with corresponding keypoints: which point of the one is which point of the other."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from densebench.datasets.dataset import Dataset, Item, limited
from densebench.errors import UserError
from densebench.files.atomic import digest

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two pictures of one category and their corresponding keypoints: row i of both lists is the same part.

    source_points, target_points: x, y in px of the original pictures, 0 at the left and upper edge, so that the centre of the
    first pixel is 0.5. The files' own numbers are taken for such positions as they are. parts: the number of the part of each row
    among those of the category, or -1 where the data set does not name them. boxes: left, top, right, bottom of the object in px;
    None where the data set has none. levels: what the data set says of how the two differ, by name, such as {"viewpoint": 2}.
    """

    name: str
    source: Item
    target: Item
    category: str
    source_points: Float[np.ndarray, "k 2"]
    target_points: Float[np.ndarray, "k 2"]
    parts: Int[np.ndarray, "k"]
    source_box: Box | None = None
    target_box: Box | None = None
    levels: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.parts)
        if self.source_points.shape != (count, 2) or self.target_points.shape != (count, 2):
            shapes = f"{self.source_points.shape} and {self.target_points.shape}"
            raise UserError(f"the pair {self.name} has keypoints of shapes {shapes} for {count} parts; give one row x, y a part")
        boxes = [np.array(box) for box in (self.source_box, self.target_box) if box is not None]
        if not all(np.isfinite(values).all() for values in (self.source_points, self.target_points, *boxes)):
            raise UserError(
                f"the pair {self.name} has a keypoint or a box that is not finite; leave out keypoints that are missing"
            )

    def facts(self) -> list[Any]:
        """Return all that the files say about the pair, as JSON values."""
        arrays = (self.source_points, self.target_points, self.parts)
        boxes = [None if box is None else list(box) for box in (self.source_box, self.target_box)]
        named = [self.name, self.source.name, self.target.name, self.category]
        return [*named, *(array.tolist() for array in arrays), *boxes, [list(level) for level in self.levels]]


@dataclass(frozen=True, kw_only=True)
class KeypointPairs(Dataset):
    """Base of data sets of pairs; a subclass gives `list_pairs`. Items are pictures, each once; limits count pairs.

    The files of a split are read once; a data set that is opened again reads them again. Keypoints outside their picture and
    boxes of no size are kept, as in the code of the benchmarks.
    """

    kind: ClassVar[str] = "keypoint pairs"
    official_pairs: ClassVar[dict[str, int]] = {}
    """How many pairs a split has officially."""

    def list_pairs(self, split: str) -> Iterable[Pair]:
        """Return the pairs of a split in an order that is the same everywhere.

        Raises UserError naming the missing or broken file.
        """
        raise NotImplementedError

    def pairs(self, split: str, limit: int | None = None) -> list[Pair]:
        """Return the pairs of a split; with a limit, at most that many, evenly spaced. Raises UserError where there is none."""
        self.items(split)  # checks the split and the names
        return limited(self._every(split), limit)

    def list_items(self, split: str) -> list[Item]:
        """Return the pictures of all pairs, in the order in which they come first."""
        return pictures_of_pairs(self._every(split))

    def part(self, split: str, limit: int | None) -> list[Item]:
        """Return the pictures of a split; with a limit, those of at most that many pairs."""
        return pictures_of_pairs(self.pairs(split, limit))

    def categories(self, split: str) -> tuple[str, ...]:
        """Return the categories that pairs of a split have, in the order of `classes`, then others by name."""
        present = {pair.category for pair in self.pairs(split)}
        return (*(name for name in self.classes if name in present), *sorted(present - {*self.classes}))

    def extent(self, split: str, limit: int | None) -> dict[str, Any]:
        """Return how many pairs and keypoints are scored, how many pairs there are officially, how many keypoints lie outside."""
        pairs = self.pairs(split, limit)
        return {
            "pairs": len(pairs),
            "official_pairs": self.official_pairs.get(split),
            "keypoints": sum(len(pair.parts) for pair in pairs),
            "keypoints_outside": self.outside(pairs),
        }

    def outside(self, pairs: Iterable[Pair]) -> int:
        """Return how many correspondences of pairs have a point outside its picture; the edges belong to the picture."""
        size = functools.cache(self.image_size)
        count = 0
        for pair in pairs:
            first, second = (
                ((points < 0) | (points > size(item))).any(axis=1)
                for item, points in ((pair.source, pair.source_points), (pair.target, pair.target_points))
            )
            count += int((first | second).sum())
        return count

    def check_stated_size(self, item: Item, stated: tuple[Any, Any], path: Path) -> None:
        """Raise UserError where a picture has not the width and height that a file states: its keypoints would be misplaced."""
        if item not in self._sizes:
            self._sizes[item] = self.image_size(item)
        width, height = self._sizes[item]
        if (width, height) != stated:
            raise UserError(
                f"the picture {item.image} is {width} x {height} but {path} says {stated[0]} x {stated[1]} (width x height); "
                "fetch both again"
            )

    def digest(self, split: str, items: Iterable[Item]) -> str:
        """Return the identity of pictures of a split, and of all pairs of the split that lie in them."""
        items = tuple(items)
        names = {item.name for item in items}
        pairs = [pair.facts() for pair in self.pairs(split) if {pair.source.name, pair.target.name} <= names]
        return digest([split, self.mapping, [item.name for item in items], self.image_digests(items), pairs])

    def label(self, item: Item) -> np.ndarray:
        """Raise UserError: a data set of pairs has no label maps."""
        raise UserError(f"{self.name} has pairs with keypoints, no label maps; protocols of segmentation need another data set")

    def label_digest(self, item: Item) -> str:
        """Return the identity of no label map: what is annotated belongs to pairs, see `digest`."""
        return ""

    def read(self, item: Item) -> None:
        """Read a picture."""
        self.image(item)

    def verify(self, full: bool = False) -> list[str]:
        """Return what `Dataset.verify` does, and where the number of pairs is not the official one."""
        problems = super().verify(full)
        for split, official in self.official_pairs.items():
            if self.has(split) and (count := len(self.pairs(split))) != official:
                problems.append(f"{split}: {count} of the official {official} pairs")
        return problems

    def _every(self, split: str) -> list[Pair]:
        if split not in self._read:
            self._read[split] = list(self.list_pairs(split))
        return self._read[split]

    @functools.cached_property
    def _read(self) -> dict[str, list[Pair]]:
        return {}

    @functools.cached_property
    def _sizes(self) -> dict[Item, tuple[int, int]]:
        return {}


def pictures_of_pairs(pairs: Iterable[Pair]) -> list[Item]:
    """Return the pictures of pairs, each once, in the order in which they come first."""
    return list(dict.fromkeys(item for pair in pairs for item in (pair.source, pair.target)))
