"""The pictures that are to be labelled: files, folders at any depth, the images of a data set, or arrays in memory."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from densebench.datasets import load_dataset
from densebench.datasets.catalog import titles
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.pictures import Pictures, pictures_of
from densebench.errors import UserError, unknown
from densebench.files.atomic import digest


@dataclass(frozen=True, kw_only=True)
class OfDataset(Pictures):
    """The images of a data set, as it gives them. originals: its items, by the names of the entries."""

    source: Dataset
    originals: Mapping[str, Item]

    def orientation(self, item: Item) -> int:
        """Return 1: a data set's images are taken as it gives them."""
        return 1

    def image(self, item: Item) -> Image.Image:
        """Return the image that the data set gives."""
        return self.source.image(self.originals[item.name])

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return the width and height that the data set gives."""
        return self.source.image_size(self.originals[item.name])

    def image_digest(self, item: Item) -> str:
        """Return the digest that the data set gives."""
        return self.source.image_digest(self.originals[item.name])


@dataclass(frozen=True, kw_only=True)
class InMemory(Pictures):
    """Pictures in memory. pixels: RGB, by the names of the entries."""

    pixels: Mapping[str, Image.Image]

    def orientation(self, item: Item) -> int:
        """Return 1: they are taken as they are."""
        return 1

    def image(self, item: Item) -> Image.Image:
        """Return the picture."""
        return self.pixels[item.name].copy()

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return the width and height."""
        return self.pixels[item.name].size

    def image_digest(self, item: Item) -> str:
        """Return the identity of the pixels."""
        picture = self.pixels[item.name]
        return digest(["pixels", *picture.size, hashlib.sha256(picture.tobytes()).hexdigest()])


def open_pictures(
    specs: Sequence[object], root: str | Path | None = None, *, without: Collection[Path] = (), limit: int | None = None
) -> Pictures:
    """Return the pictures that are named: files and folders (at any depth), one data set, or arrays and PIL images.

    root: the folder of the data sets. without: files that are left out, and folders with all that is below them. limit: at most
    so many, evenly spaced. Raises UserError for what is unknown or holds no picture.
    """
    if not specs:
        raise UserError("no picture is named; give files, a folder or a data set")
    if all(isinstance(spec, np.ndarray | Image.Image) for spec in specs):
        pictures: Pictures = _in_memory(specs)
    elif len(specs) == 1 and (dataset := _dataset(specs[0], root)) is not None:
        pictures = _of_dataset(dataset)
    else:
        pictures = pictures_of([_path(spec) for spec in specs], without)
    return pictures if limit is None else _limited(pictures, limit)


def _dataset(spec: object, root: str | Path | None) -> Dataset | None:
    """Return the data set that a name means; None for a path, which may be that of a folder of pictures."""
    if isinstance(spec, Dataset):
        return spec
    if isinstance(spec, str) and (spec in titles() or spec.startswith("folder:") or spec.endswith(".py")):
        return load_dataset(spec, root)
    return None


def _of_dataset(dataset: Dataset) -> OfDataset:
    """Return the images of all splits of a data set that are there, each once."""
    if dataset.kind != "label maps":
        raise UserError(f"{dataset.name} has {dataset.kind}; give the folder of its images")
    found = {split: dataset.items(split) for split in dataset.splits if dataset.has(split)}
    if not found:
        dataset.items(dataset.val_split)  # says what is missing
    unique = {(item.name, item.image): (split, item) for split, items in found.items() for item in items}.values()
    counts = Counter(item.name for _, item in unique)
    names = [item.name if counts[item.name] == 1 else f"{split}/{item.name}" for split, item in unique]
    entries = tuple(Item(name, item.image, None) for name, (_, item) in zip(names, unique, strict=True))
    originals = {name: item for name, (_, item) in zip(names, unique, strict=True)}
    return OfDataset(
        root=dataset.root, name=dataset.name, code=dataset.code, entries=entries, source=dataset, originals=originals
    )


def _in_memory(specs: Sequence[object]) -> InMemory:
    """Return arrays `[h w 3]` or `[h w]` of bytes and PIL images as pictures with the names 000000, 000001, ..."""
    pixels = []
    for number, spec in enumerate(specs):
        if isinstance(spec, np.ndarray):
            if spec.dtype != np.uint8 or spec.ndim not in (2, 3) or (spec.ndim == 3 and spec.shape[2] != 3) or not spec.size:
                raise UserError(f"picture {number} is {spec.dtype} {list(spec.shape)}; give uint8 [h, w, 3] or [h, w]")
            pixels.append(Image.fromarray(spec).convert("RGB"))
        else:
            assert isinstance(spec, Image.Image)
            pixels.append(spec.convert("RGB"))
    entries = tuple(Item(f"{number:06}", None, None) for number in range(len(pixels)))
    named = {entry.name: picture for entry, picture in zip(entries, pixels, strict=True)}
    return InMemory(root=Path(), name="pictures in memory", entries=entries, pixels=named)


def _path(spec: object) -> Path:
    if not isinstance(spec, str | Path):
        raise UserError(f"a picture is a path, a uint8 array or a PIL image, all of one kind, not {type(spec).__name__}")
    if not os.path.exists(spec):  # noqa: PTH110 (Path raises for a name that is too long)
        if isinstance(spec, str) and spec in titles():
            raise UserError(
                f"{spec} is a data set, which is given alone; name the folders of its images to join them with others"
            )
        raise unknown(
            "picture, folder or data set", str(spec), titles(), "give files, a folder or a name of `densebench data ls`"
        )
    return Path(spec)


def _limited(pictures: Pictures, limit: int) -> Pictures:
    """Return some pictures, evenly spaced. Of a data set and of pictures in memory each finds its own by name."""
    return replace(pictures, entries=tuple(limited(pictures.entries, limit)))
