"""The pictures that are to be labelled: files, folders at any depth, the images of a data set, or arrays in memory."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from densebench.datasets import load_dataset
from densebench.datasets.catalog import titles
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.folder import ORIENTATION, SUFFIXES
from densebench.datasets.io.decoding import image_size, opened, read_image
from densebench.errors import UserError, unknown
from densebench.files.atomic import digest

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a stored picture is turned to be upright, by the orientation that its EXIF states; any other value says: not at all."""
BACK = {**TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class Pictures(Dataset):
    """Picture files without labels, upright: a camera may store a picture turned and say so in its EXIF.

    entries: their names, which are relative paths without the ending and differ in more than case, and their files.
    """

    name: str = "pictures"
    splits: tuple[str, ...] = ("all",)
    train_split: str = "all"
    val_split: str = "all"
    entries: tuple[Item, ...] = ()

    def list_items(self, split: str) -> Sequence[Item]:
        """Return all pictures in order."""
        return self.entries

    def orientation(self, item: Item) -> int:
        """Return the number by which EXIF says how the stored picture is turned; 1: it is upright."""
        path = _file(item)
        with opened(path, f"the image {path}", "opened") as image:
            found = image.getexif().get(ORIENTATION, 1)
        return found if found in TURNS else 1

    def image(self, item: Item) -> Image.Image:
        """Return the picture upright, RGB. Raises UserError naming the file when it is missing or broken."""
        picture, turn = read_image(_file(item)), TURNS.get(self.orientation(item))
        return picture if turn is None else picture.transpose(turn)

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return the width and height of the upright picture, from the header."""
        width, height = image_size(_file(item))
        return (height, width) if self.orientation(item) in SIDEWAYS else (width, height)

    def image_digest(self, item: Item) -> str:
        """Return the identity of the upright picture: another than that of the file where that is stored turned."""
        stored, turn = super().image_digest(item), self.orientation(item)
        return stored if turn == 1 else digest([stored, "upright", turn])


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
        pictures = _of_files([_path(spec) for spec in specs], without)
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


def _of_files(paths: Sequence[Path], without: Collection[Path]) -> Pictures:
    """Return picture files and those of folders, each once, sorted by path. Names start at the deepest folder that holds all."""
    left_out = {path.resolve() for path in without}
    base = Path(os.path.commonpath([_absolute(path if path.is_dir() else path.parent) for path in paths]))
    files = sorted({file for path in paths for file in (_below(path, left_out) if path.is_dir() else [path])}, key=_absolute)
    kept = {_absolute(file): file for file in files if file.resolve() not in left_out}
    if not kept:
        shown = ", ".join(map(str, paths[:3]))
        raise UserError(f"{shown} holds no picture ({', '.join(SUFFIXES)}), at any depth; give a folder that does")
    names = _names([path.relative_to(base) for path in kept])
    entries = tuple(Item(name, file, None) for name, file in zip(names, kept.values(), strict=True))
    return Pictures(root=base, entries=entries)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - keeps symbolic links, which Path.resolve would follow


def _below(folder: Path, without: Collection[Path]) -> Iterator[Path]:
    """Yield the picture files of a folder at any depth, hidden ones left out; links to folders are followed, once each."""
    visited: set[Path] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = Path(parent).resolve()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if real in visited or real in without:
            folders.clear()
            continue
        visited.add(real)
        yield from (Path(parent, name) for name in files if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."))


def _unreadable(error: OSError) -> None:
    raise UserError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the paths without their endings; pictures that differ in the ending alone keep it, as x.jpg and x.png do.

    Raises UserError for paths that differ in case alone: on some systems they would be one file.
    """
    bare = [path.with_suffix("").as_posix() for path in paths]
    counts = Counter(name.casefold() for name in bare)
    names = [name if counts[name.casefold()] == 1 else path.as_posix() for name, path in zip(bare, paths, strict=True)]
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(name.casefold(), name)) is not name:
            raise UserError(f"the pictures {other} and {name} would have one label map where case does not matter; rename one")
    return names


def _limited(pictures: Pictures, limit: int) -> Pictures:
    """Return some pictures, evenly spaced. Of a data set and of pictures in memory each finds its own by name."""
    return replace(pictures, entries=tuple(limited(pictures.entries, limit)))


def _file(item: Item) -> Path:
    if item.image is None:
        raise UserError(f"the picture {item.name} has no file")
    return item.image
