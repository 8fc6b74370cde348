"""The images that `--data` names: a folder tree, tar shards, the training images of a data set, or several of them together."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from densebench.datasets import load_dataset
from densebench.datasets.catalog import data_root, titles
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.folder import SUFFIXES
from densebench.datasets.imagenet_boxes import FOLDERS
from densebench.datasets.images import First, Images, Joined
from densebench.datasets.io.decoding import image_size, opened, read_image, read_reduced, reduced, rgb
from densebench.errors import UserError, unknown
from densebench.files.atomic import check_ordinary

OFFICIAL = {
    "imagenet": tuple(f"{folder}/train" for folder in FOLDERS),
    "coco": ("coco/train2017", "coco/images/train2017"),
    "coco-unlabeled": ("coco/unlabeled2017", "coco/images/unlabeled2017"),
}
"""Sets that are only images: where they lie below the data root, whichever is there first."""
JOINED = {"coco+": ("coco", "coco-unlabeled")}


@dataclass(frozen=True)
class Tree(Images):
    """All images under a folder, at any depth, sorted by path."""

    name: str
    folder: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def title(self, index: int) -> str:
        """Return the path below the folder."""
        return self.paths[index]

    def open(self, index: int) -> Image.Image:
        """Decode the file as RGB."""
        return read_image(self.folder / self.paths[index])

    def reduced(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode the file as RGB, reduced where the decoder `reduced` is used."""
        return read_reduced(self.folder / self.paths[index], side)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height from the file's header."""
        return image_size(self.folder / self.paths[index])


@dataclass(frozen=True)
class Labelled(Images):
    """The images of a data set's training split; its labels are not read."""

    name: str
    dataset: Dataset
    items: tuple[Item, ...]

    @property
    def code(self) -> str:  # type: ignore[override]
        """The digest of the data set's code."""
        return self.dataset.code

    def __len__(self) -> int:
        return len(self.items)

    def title(self, index: int) -> str:
        """Return the name of the item."""
        return self.items[index].name

    def open(self, index: int) -> Image.Image:
        """Decode the file as RGB."""
        return self.dataset.image(self.items[index])

    def reduced(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode the file as RGB, reduced where the decoder `reduced` is used and the data set shows files as they are."""
        path = self.items[index].image
        if path is None or type(self.dataset).image is not Dataset.image:
            return super().reduced(index, side)
        return read_reduced(path, side)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height that the data set gives."""
        return self.dataset.image_size(self.items[index])


@dataclass(frozen=True)
class Shards(Images):
    """The images inside uncompressed tar archives, read in place: where each begins is found once, from the headers."""

    name: str
    archives: tuple[Path, ...]
    members: tuple[tuple[int, str, int, int], ...]
    """Index of the archive, name inside it, first byte, number of bytes."""

    def __len__(self) -> int:
        return len(self.members)

    def title(self, index: int) -> str:
        """Return the archive's name and the member's."""
        archive, name, _, _ = self.members[index]
        return f"{self.archives[archive].name}/{name}"

    def open(self, index: int) -> Image.Image:
        """Decode the member of its archive."""
        what = f"the image {self.title(index)}"
        with opened(self._content(index), what, remedy="make the shard again") as image:
            return rgb(image, what)

    def reduced(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode the member as RGB, reduced where the decoder `reduced` is used."""
        what = f"the image {self.title(index)}"
        with opened(self._content(index), what, remedy="make the shard again") as image:
            return reduced(image, what, side)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height from the header of the member."""
        with opened(self._content(index), f"the image {self.title(index)}", "opened", remedy="make the shard again") as image:
            return image.size

    def _content(self, index: int) -> io.BytesIO:
        archive, _, offset, size = self.members[index]
        try:
            with self.archives[archive].open("rb") as stream:
                stream.seek(offset)
                return io.BytesIO(stream.read(size))
        except OSError as error:
            what = f"the image {self.title(index)}"
            raise UserError(f"{what} cannot be read ({error.strerror}); make the shard again") from error


def open_images(
    specs: str | Path | Dataset | Sequence[str | Path | Dataset], root: str | Path | None = None, limit: int | None = None
) -> Images:
    """Open the images that `--data` names: a folder, a .tar file or a folder of them, `imagenet`, `coco`, `coco+`, a data set.

    Of several, their images one after the other. Raises UserError for what is unknown, missing, unreadable or without an image.
    """
    specs = [specs] if isinstance(specs, str | Path | Dataset) else specs
    parts = tuple(_open(spec, root) for spec in specs)
    images = parts[0] if len(parts) == 1 else Joined("+".join(part.name for part in parts), parts)
    if limit is not None and limit < len(images):
        images = First(images, tuple(int(i * len(images) / limit) for i in range(limit)))
    return images


def _open(spec: str | Path | Dataset, root: str | Path | None) -> Images:
    if isinstance(spec, Dataset):
        return Labelled(spec.name, spec, spec.items(spec.train_split))
    spec = str(spec)
    if spec in JOINED:
        return Joined(spec, tuple(_open(part, root) for part in JOINED[spec]))
    if spec in OFFICIAL:
        return _official(spec, data_root(root))
    path = Path(spec)
    if spec in titles() or spec.startswith("folder:") or (spec.endswith(".py") and path.is_file()):
        dataset = load_dataset(spec, root)
        return Labelled(dataset.name, dataset, dataset.items(dataset.train_split))
    if path.is_file() and path.suffix == ".tar":
        return _shards(path.stem, (path,))
    if path.is_dir():
        archives = tuple(sorted(path.glob("*.tar")))
        return _shards(path.name, archives) if archives else _tree(path.resolve().name, path)
    known = [*OFFICIAL, *JOINED, *titles()]
    raise unknown("data", spec, known, f"give a folder of images, a folder of .tar shards, or one of {', '.join(known)}")


def _official(name: str, root: Path) -> Images:
    for folder in OFFICIAL[name]:
        if (root / folder).is_dir():
            return _tree(name, root / folder)
    raise UserError(f"{name} is not under {root}: no folder {' or '.join(OFFICIAL[name])}; fetch it or give another --data-root")


def _tree(name: str, folder: Path) -> Tree:
    try:
        paths = sorted(_files(folder))
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error
    if not paths:
        raise UserError(f"{folder} holds no image ({', '.join(SUFFIXES)}), at any depth; give a folder that does")
    return Tree(name, folder, tuple(paths))


def _unreadable(error: OSError) -> None:
    raise error


def _files(folder: Path) -> Iterator[str]:
    """Yield image files at any depth, as paths below the folder; links to folders are followed, once each."""
    visited: set[Path] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = Path(parent).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES:
                yield os.path.relpath(Path(parent, name), folder)


def _shards(name: str, archives: tuple[Path, ...]) -> Shards:
    members: list[tuple[int, str, int, int]] = []
    for number, path in enumerate(archives):
        try:
            check_ordinary(path)
            with tarfile.open(path, "r:") as archive:
                files = (m for m in archive if m.isfile() and Path(m.name).suffix.lower() in SUFFIXES)
                members += [(number, member.name, member.offset_data, member.size) for member in files]
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            raise UserError(f"{path} is not an uncompressed tar archive ({error}); unpack it or make it again") from error
    if not members:
        where = archives[0] if len(archives) == 1 else f"{archives[0].parent}: {len(archives)} .tar files"
        raise UserError(f"{where}: no image inside ({', '.join(SUFFIXES)}); give shards that hold some")
    return Shards(name, archives, tuple(members))
