"""Drawn data sets on which the right answer is known, one for each kind of label.

The class of every patch is drawn at random, and its colour tells it, under a little grain that makes all patches different. So
a backbone that reads the colour can be right everywhere, and one that sees none of it, nor where an object was before, cannot
do better than chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.catalog import PICTURES
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.keypoints import KeypointPairs, Pair
from densebench.datasets.videos import Videos
from densebench.files.atomic import digest

COLOURS = np.array([[220, 40, 40], [40, 200, 40], [40, 60, 220], [230, 220, 40], [110, 110, 110]], np.uint8)
"""One colour a class, [C, 3]."""
CLASSES = ("red", "green", "blue", "yellow", "grey")
SIDE, BLOCK = 128, 32  # px of an image and of a block that is of one class
GRAIN = 6  # largest change of a pixel's value
WALK = ((0, 0), (0, 1), (1, 1), (1, 0))  # rows and columns, in blocks, where a square stands in one frame after the other
COUNTS = {"train": 10, "val": 8}
PATCH, SPOT = 16, 4  # px of the patch in whose middle a spot is, and half a side of the spot
BOX = (0.0, 0.0, float(SIDE), float(SIDE))


def _generator(*key: object) -> np.random.Generator:
    return np.random.default_rng(int(digest(list(key), 12), 16))


def _grained(ids: np.ndarray, generator: np.random.Generator) -> Image.Image:
    """Return an image of ids `[h, w]` in their colours, with grain."""
    grain = generator.integers(-GRAIN, GRAIN + 1, (*ids.shape, 3))
    return Image.fromarray((COLOURS[ids].astype(np.int64) + grain).clip(0, 255).astype(np.uint8))


def _labelled(item: Item, redrawn: bool) -> Item:
    """Return the item whose label an item has: itself, or one that is never shown."""
    return replace(item, name=f"unseen-{item.name}") if redrawn and item.name.startswith("val") else item


class _Drawn:
    """What drawn items have in common: they have no files, and their names decide what they show."""

    name: str
    mapping: str

    def list_items(self, split: str) -> Iterable[Item]:
        """Return the items of a split."""
        return [Item(f"{split}-{index}", None, None) for index in range(COUNTS[split])]

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return the width and height."""
        return SIDE, SIDE

    def image_digest(self, item: Item) -> str:
        """Return the digest of what decides the pixels."""
        return digest(["drawn image", self.name, self.mapping, item.name])

    def label_digest(self, item: Item) -> str:
        """Return the digest of what decides the labels."""
        return digest(["drawn label", self.name, self.mapping, item.name])


@dataclass(frozen=True, kw_only=True)
class Blocks(_Drawn, Dataset):
    """Label maps of square blocks, each of a random class.

    void: half is unlabelled and shown in the colours of two classes. redrawn: the labels of val do not
    go with its images.
    """

    name: str = "blocks"
    title: str = "Blocks of one colour a class"
    mapping: str = "blocks"
    classes: tuple[str, ...] = CLASSES
    image_size_hint: int = SIDE
    void: bool = False
    redrawn: bool = False

    def _blocks(self, item: Item) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes of the blocks and which of them are unlabelled, at the size of the image."""
        generator = _generator(self.name, item.name)
        shape = (SIDE // BLOCK, SIDE // BLOCK)
        ids, hidden = generator.integers(0, len(CLASSES), shape), generator.random(shape) < 0.5
        both = (ids, hidden & self.void)
        return tuple(each.repeat(BLOCK, 0).repeat(BLOCK, 1) for each in both)  # type: ignore[return-value]

    def image(self, item: Item) -> Image.Image:
        """Return the blocks in their colours, RGB."""
        ids, hidden = self._blocks(item)
        return _grained(np.where(hidden, 1 + ids % 2, ids), _generator("grain", item.name))

    def label(self, item: Item) -> np.ndarray:
        """Return the class of each pixel, uint8 [128, 128]; 255 where it is unlabelled."""
        ids, hidden = self._blocks(_labelled(item, self.redrawn))
        return np.where(hidden, self.ignore_index, ids).astype(np.uint8)

    def image_digest(self, item: Item) -> str:
        """Return the digest of what decides the pixels."""
        return digest(["blocks", self.void, item.name])

    def label_digest(self, item: Item) -> str:
        """Return the digest of what decides the labels."""
        return digest(["labels of blocks", self.void, self.redrawn, item.name])


@dataclass(frozen=True, kw_only=True)
class Rectangles(_Drawn, Boxed):
    """Images that one rectangle of a class fills for the most part, on grey."""

    name: str = "rectangles"
    title: str = "Rectangles of one colour a class"
    classes: tuple[str, ...] = CLASSES[:-1]
    image_size_hint: int = SIDE
    mapping: str = "rectangles"
    redrawn: bool = False

    def list_items(self, split: str) -> Iterable[Item]:
        """Return the items of a split, several of each class."""
        return [Item(f"{split}-{index}", None, None) for index in range(3 * COUNTS[split])]

    def _box(self, item: Item) -> tuple[int, list[int]]:
        """Return the class and left, top, right, bottom."""
        generator = _generator(self.name, item.name)
        left, top = generator.integers(12, 32, 2).tolist()
        right, bottom = generator.integers(SIDE - 32, SIDE - 12, 2).tolist()
        return int(generator.integers(len(self.classes))), [left, top, right, bottom]

    def image(self, item: Item) -> Image.Image:
        """Return the rectangle on grey, RGB."""
        label, (left, top, right, bottom) = self._box(item)
        ids = np.full((SIDE, SIDE), len(CLASSES) - 1)
        ids[top:bottom, left:right] = label
        return _grained(ids, _generator("grain", item.name))

    def objects(self, item: Item) -> Objects:
        """Return the one rectangle."""
        label, box = self.annotation(item)
        area = float((box[2] - box[0]) * (box[3] - box[1]))
        return Objects(np.array([box], np.float64), np.array([label]), np.array([False]), np.array([area]))

    def annotation(self, item: Item) -> Any:
        """Return the class and the box."""
        return self._box(_labelled(item, self.redrawn))[0], self._box(item)[1]


@dataclass(frozen=True, kw_only=True)
class Jumps(_Drawn, Videos):
    """Videos of a red and a green square on grey, each in its own quarter; in every frame they stand where none stood before."""

    name: str = "jumps"
    title: str = "Squares that jump"
    mapping: str = "jumps"
    length: ClassVar[int] = len(WALK)

    def names(self, split: str) -> list[str]:
        """Return the names of the sequences."""
        return [f"{split}-{index}" for index in range(3)]

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the frames of all sequences."""
        yield from (Item(f"{name}/{frame:02}", None, None) for name in self.names(split) for frame in range(self.length))

    def raw_label(self, item: Item) -> np.ndarray:
        """Return 1 and 2 where the squares stand, 0 elsewhere, uint8 [128, 128]."""
        sequence, _, frame = item.name.partition("/")
        start = int(_generator(self.name, sequence).integers(len(WALK)))
        ids = np.zeros((SIDE, SIDE), np.uint8)
        for number in (1, 2):
            row, column = (BLOCK * (step + 2 * (number - 1)) for step in WALK[(start + int(frame)) % len(WALK)])
            ids[row : row + BLOCK, column : column + BLOCK] = number
        return ids

    def image(self, item: Item) -> Image.Image:
        """Return the frame, RGB."""
        shown = np.array([len(CLASSES) - 1, 0, 1])[self.raw_label(item)]
        return _grained(shown, _generator("grain", item.name))


@dataclass(frozen=True, kw_only=True)
class Spots(_Drawn, KeypointPairs):
    """Pairs of pictures with a spot of each colour on grey, each a part; where a spot is has nothing to do with its colour.

    A spot is smaller than a patch of 16 px and lies in its middle. redrawn: the keypoints of val do not go with its images.
    """

    name: str = "spots"
    title: str = "Spots of one colour a part"
    mapping: str = "spots"
    classes: tuple[str, ...] = ("even", "odd")
    image_size_hint: int = SIDE
    redrawn: bool = False

    def list_items(self, split: str) -> list[Item]:
        """Return the pictures of a split."""
        return [Item(f"{split}-{index}", None, None) for index in range(COUNTS[split])]

    def list_pairs(self, split: str) -> Iterator[Pair]:
        """Yield a pair of each picture with the next one, and one with the next but one."""
        items = self.list_items(split)
        for step in (1, 2):
            for number, source in enumerate(items):
                target = items[(number + step) % len(items)]
                name, level = f"{source.name}-{step}", ("viewpoint", number % 3)
                points = [self._spots(_labelled(item, self.redrawn)) for item in (source, target)]
                category = self.classes[number % 2]
                yield Pair(name, source, target, category, points[0], points[1], np.arange(len(points[0])), BOX, BOX, (level,))

    def _spots(self, item: Item) -> np.ndarray:
        """Return the centres of the spots, x and y in px, [4, 2]: those of different patches, never neighbours."""
        cells = _generator(self.name, item.name).permutation(9)[: len(CLASSES) - 1]
        return PATCH * (2 * np.stack([cells % 3, cells // 3], axis=1) + 1.5)

    def image(self, item: Item) -> Image.Image:
        """Return the spots on grey, RGB."""
        ids = np.full((SIDE, SIDE), len(CLASSES) - 1)
        for number, (x, y) in enumerate(self._spots(item).astype(int).tolist()):
            ids[y - SPOT : y + SPOT, x - SPOT : x + SPOT] = number
        return _grained(ids, _generator("grain", item.name))


def drawn(kind: str) -> list[Dataset]:
    """Return the drawn data sets of a kind, the most ordinary one first; none for a kind that is not drawn."""
    return _every().get(kind, [])


def kinds() -> list[str]:
    """Return the kinds that are drawn."""
    return list(_every())


def _every() -> dict[str, list[Dataset]]:
    root = Path()
    return {
        "label maps": [Blocks(root=root), Blocks(root=root, background=0)],
        "boxes": [Rectangles(root=root)],
        "videos": [Jumps(root=root)],
        PICTURES: [Blocks(root=root), Rectangles(root=root)],
        "keypoint pairs": [Spots(root=root)],
    }
