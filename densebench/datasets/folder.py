"""The user's own folder of images and labels: `folder:DIR`.

What `DIR/classes.toml` does not say is inferred and printed in one line: which files belong together (`folders.pairs` says how),
what their values mean (`folders.meaning`), which are trained on (`folders.splits`). The layout that needs no inference:

    DIR/classes.toml             classes = ["cat", "dog"], and optionally the keys below
    DIR/images/<split>/<name>.*  jpg, jpeg, png, webp, bmp or tif
    DIR/labels/<split>/<name>.png  one id a pixel, greyscale or paletted

Keys of classes.toml; all but the lists may also follow the folder's name, as `folder:DIR?key=value&key=value`:

    classes            names, in the order of the ids
    values             the value (or the colour, "#80ff00") of each class in the label maps; else they count from 0
    ignore_index       the value (or colour) of unlabelled pixels; 255, for 16 bits also -1; 255 is always void but as a class
    reduce_zero_label  true: classes are numbered from 1, and 0 is unlabelled
    background         the name of the background class
    splits             the first is trained on, the last evaluated; ["train", "val"]
    images, labels     the folders of images and of label maps; labels may be an annotation file (`folders.annotations`)
    suffix             what label maps have behind the name of their image, such as "_mask"
    nested             true: images and label maps lie in folders of any depth, alike; names are relative paths
    ignore_background  true: pixels outside all shapes of an annotation file are void, else a class "background"
    seed, val          the split by seed, where there is no other: 0 and 0.2
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from densebench.datasets.dataset import Dataset, Item, files_in
from densebench.datasets.folders.mask_files import hexed, read_values
from densebench.datasets.folders.options import UNSIGNED
from densebench.datasets.folders.pairs import IMAGE_SUFFIXES
from densebench.datasets.io.decoding import opened
from densebench.datasets.label_maps import IGNORED, INVALID
from densebench.errors import UserError
from densebench.pictures.palette import Colour

SUFFIXES = IMAGE_SUFFIXES
ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """A folder of images and label maps with the same stems, described by classes.toml. `root` is the folder itself.

    values: the number of each class in the files; coloured: it is 65536 R + 256 G + B. void: the numbers of unlabelled pixels.
    """

    values: tuple[int, ...] = ()
    coloured: bool = False
    void: tuple[int, ...] = (IGNORED,)

    @property
    def remedy(self) -> str:
        """Where the layout is described; nothing can be fetched."""
        return "see densebench.datasets.folder for the layout"

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the images of images/<split>, sorted by name. Raises UserError where one has no label map or shares its stem."""
        labels = self.root / "labels" / split
        known = {path.stem for path in files_in(labels, "*.png", self.remedy)}
        stems: set[str] = set()
        for image in files_in(self.root / "images" / split, "*", self.remedy):
            if image.suffix.lower() not in SUFFIXES:
                continue
            if image.stem not in known:
                raise UserError(f"the image {image} has no label map {labels / image.stem}.png; add it or remove the image")
            if image.stem in stems:
                raise UserError(f"two images in {image.parent} are called {image.stem}; rename one and its label map")
            stems.add(image.stem)
            yield Item(image.stem, image, labels / f"{image.stem}.png")

    def label_table(self) -> np.ndarray:
        """Return what each value 0..255 of a label map of numbers becomes, as `Dataset.label_table`."""
        table = np.full(256, INVALID, np.int16)
        table[list(self.values)] = np.arange(len(self.values))
        table[[value for value in self.void if value <= IGNORED]] = IGNORED
        return table

    def palette(self) -> list[Colour]:
        """Return the colours of the label maps, where they hold colours; else `Dataset.palette`."""
        if not self.coloured:
            return super().palette()
        return [(value >> 16, value >> 8 & 255, value & 255) for value in self.values]

    def label(self, item: Item) -> UInt8[np.ndarray, "h w"]:
        """Return the class of each pixel, as `Dataset.label`; label maps may have 16 bits."""
        numbers = self._numbers(item)
        known = np.array([*self.values, *self.void], np.int32)
        ids = np.array([*range(len(self.values)), *([IGNORED] * len(self.void))], np.int16)
        if int(numbers.max(initial=0)) <= UNSIGNED:
            table = np.full(UNSIGNED + 1, INVALID, np.int16)
            table[known[known <= UNSIGNED]] = ids[known <= UNSIGNED]
            found = table[numbers]
        else:
            order = np.argsort(known)
            index = np.searchsorted(known[order], numbers).clip(max=len(known) - 1)
            found = np.where(known[order][index] == numbers, ids[order][index], INVALID)
        if (found == INVALID).any():
            raise self._strange(item, np.unique(numbers[found == INVALID]).tolist())
        self.check_size(item, numbers.shape)
        return found.astype(np.uint8)

    def _numbers(self, item: Item) -> Int32[np.ndarray, "h w"]:
        if item.label is None:
            raise UserError(f"the item {item.name} has no file; it belongs to another data set")
        return read_values(item.label, self.coloured)

    def _strange(self, item: Item, values: list[int]) -> UserError:
        """Return the error for values that are neither a class nor void; it says what to write where one of them is void."""
        shown = [hexed(value) if self.coloured else str(value) for value in values]
        void = f'"{shown[0]}"' if self.coloured else shown[0]
        names = [hexed(value) if self.coloured else str(value) for value in (self.values[0], self.values[-1])]
        remedy = f"if {shown[0]} is void, write ignore_index = {void} in {self.root / 'classes.toml'} or ?ignore_index={shown[0]}"
        if not self.coloured and IGNORED < values[0] < UNSIGNED:
            remedy = "ids go up to 255; renumber the classes"
        return UserError(
            f"the label map {item.label} holds the value {shown[0]}, which {self.name} does not have ({len(values)} such values, "
            f"{len(self.classes)} classes from {names[0]} to {names[1]}); {remedy}; if it is a class, list it in classes.toml"
        )

    def check_size(self, item: Item, shape: tuple[int, ...]) -> None:
        """Raise UserError where the labels' (h, w) differs from the image's, or says that a camera stored the image turned."""
        width, height = self.image_size(item)
        if shape == (height, width):
            return
        turned = ""
        if shape == (width, height) and item.image is not None and is_turned(item.image):
            turned = " (the camera stored it turned, and EXIF says so; save it upright)"
        raise UserError(
            f"the labels of {item.name} in {item.label} are {shape[1]} x {shape[0]} but the image {item.image} is "
            f"{width} x {height} (width x height){turned}; export one of them again"
        )


@dataclass(frozen=True, kw_only=True)
class Inferred(Folder):
    """A folder of which something was inferred.

    entries: the images of each split. layout, split_rule: what was inferred, in words. stated: options that the user gave.
    """

    entries: tuple[tuple[str, tuple[Item, ...]], ...] = ()
    layout: str = ""
    split_rule: str = ""
    stated: tuple[tuple[str, Any], ...] = ()

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the images of a split, sorted by name or in the order of its list."""
        yield from dict(self.entries)[split]

    def facts(self) -> dict[str, Any]:
        """Return what `Dataset.facts` says, and what was inferred."""
        return {**super().facts(), "label_values": self._shown(), "layout": self.layout, "split_rule": self.split_rule}

    def classes_toml(self) -> str:
        """Return the text of a classes.toml by which nothing needs to be inferred from the label maps."""
        lines: dict[str, Any] = {**dict(self.stated), "classes": list(self.classes), **self._meaning()}
        if self.background is not None:
            lines["background"] = self.classes[self.background]
        if not self.split_rule.startswith("by seed"):
            others = [split for split in self.splits if split not in (self.train_split, self.val_split)]
            lines["splits"] = [self.train_split, *others, self.val_split]
        return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in lines.items())

    def _meaning(self) -> dict[str, Any]:
        """Return the lines of classes.toml that give the values of the classes and of void."""
        lines: dict[str, Any] = {}
        if self.coloured or self.values != tuple(range(len(self.values))):
            lines["values"] = self._shown()
        void = [value for value in self.void if value != IGNORED or self.coloured]
        if void:
            lines["ignore_index"] = hexed(void[0]) if self.coloured else void[0]
        return lines

    def _shown(self) -> list[Any]:
        return [hexed(value) for value in self.values] if self.coloured else list(self.values)


def is_turned(path: Path) -> bool:
    """Return whether an image's EXIF says that it is to be turned or mirrored for display; it is read as it is stored."""
    with opened(path, f"the image {path}", "opened") as image:
        return image.getexif().get(ORIENTATION, 1) in range(2, 9)
