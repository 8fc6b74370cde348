"""Pictures without labels: files and folders at any depth, upright."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.folder import ORIENTATION, SUFFIXES
from densebench.datasets.io.decoding import image_size, opened, read_image
from densebench.errors import UserError
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

    title: str = "pictures without labels"
    splits: tuple[str, ...] = ("all",)
    train_split: str = "all"
    val_split: str = "all"
    entries: tuple[Item, ...] = ()

    kind: ClassVar[str] = "pictures"

    def list_items(self, split: str) -> Sequence[Item]:
        """Return all pictures in order."""
        return self.entries

    def label(self, item: Item) -> Any:
        """Raise UserError: there are no labels."""
        raise UserError(f"{self.name} has no labels; protocols that score labels need another data set")

    def label_digest(self, item: Item) -> str:
        """Return the identity of no label."""
        return ""

    def facts(self) -> dict[str, Any]:
        """Return nothing: there are no labels."""
        return {}

    def read(self, item: Item) -> None:
        """Read a picture."""
        self.image(item)

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


def open_folder_of_pictures(name: str) -> Pictures:
    """Open `pictures:DIR`. Raises UserError where there is no such folder, and for one without a picture."""
    folder = Path(name.removeprefix("pictures:"))
    if not folder.is_dir():
        raise UserError(f"{name}: there is no folder {folder}; give one that holds pictures")
    return replace(pictures_of([folder]), name=name, title=f"the pictures of {folder.name or folder}")


def pictures_of(paths: Sequence[Path], without: Collection[Path] = ()) -> Pictures:
    """Return picture files and those of folders, each once, sorted by path. Names start at the deepest folder that holds all.

    without: files that are left out, and folders with all that is below them. Raises UserError where no picture is left.
    """
    left_out = {path.resolve() for path in without}
    base = Path(os.path.commonpath([_absolute(path if path.is_dir() else path.parent) for path in paths]))
    files = sorted({file for path in paths for file in (_below(path, left_out) if path.is_dir() else [path])}, key=_absolute)
    kept = {_absolute(file): file for file in files if file.resolve() not in left_out}
    if not kept:
        shown = ", ".join(map(str, paths[:3]))
        raise UserError(f"{shown} holds no picture ({', '.join(SUFFIXES)}), at any depth; give a folder that does")
    names = _names([path.relative_to(base) for path in kept])
    entries = tuple(Item(name, file, None) for name, file in zip(names, kept.values(), strict=True))
    return Pictures(root=base, name="pictures", entries=entries)


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


def _file(item: Item) -> Path:
    if item.image is None:
        raise UserError(f"the picture {item.name} has no file")
    return item.image
