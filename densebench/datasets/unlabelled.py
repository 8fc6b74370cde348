"""Images without labels: what pretraining reads. A folder tree, tar shards, the images of a data set, or several together."""

from __future__ import annotations

import io
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from densebench.datasets import load_dataset
from densebench.datasets.catalog import data_root, titles
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.folder import SUFFIXES
from densebench.datasets.imagenet_boxes import FOLDERS
from densebench.datasets.io.decoding import image_size, opened, read_image, read_reduced, reduced, rgb
from densebench.errors import UserError, unknown
from densebench.files.atomic import check_ordinary, digest

OFFICIAL = {
    "imagenet": tuple(f"{folder}/train" for folder in FOLDERS),
    "coco": ("coco/train2017", "coco/images/train2017"),
    "coco-unlabeled": ("coco/unlabeled2017", "coco/images/unlabeled2017"),
}
"""Sets that are only images: where they lie below the data root, whichever is there first."""
JOINED = {"coco+": ("coco", "coco-unlabeled")}


class Images(ABC):
    """A sequence of images, each of which can be decoded by its number, in any process."""

    name: str
    code: str = ""
    """The digest of the user's own code that reads them; "" where it is built in."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def title(self, index: int) -> str:
        """Return what an image is called in a message: its path."""

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """Decode one image as RGB. Raises UserError, which names the image, where it cannot be decoded."""

    def reduced(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode one image as RGB, and return it with its full width and height. Raises UserError as `open` does.

        Only the decoder `reduced` gives a smaller image, whose short side is at least `side` px.
        """
        image = self.open(index)
        return image, image.size

    def pixels(self, index: int) -> np.ndarray:
        """Decode one image: uint8 [h, w, 3]."""
        return np.asarray(self.open(index))

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of an image, from its header where it has one. Raises UserError as `open` does."""
        return self.open(index).size

    def nbytes(self, index: int) -> int:
        """Return how many bytes `pixels` returns, from the header of the image. Raises UserError as `open` does."""
        width, height = self.size(index)
        return 3 * width * height

    def digest(self) -> str:
        """Return the identity of the set: its images' names, in order."""
        return digest([len(self), *(self.title(index) for index in range(len(self)))], 16)


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
        """Decode the file as RGB, at a reduced scale where that is asked for."""
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
        """Decode the file as RGB, at a reduced scale where that is asked for and the image is what the file holds."""
        path = self.items[index].image
        if path is None or type(self.dataset).image is not Dataset.image:
            return super().reduced(index, side)
        return read_reduced(path, side)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height that the data set tells."""
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
        """Decode the member, at a reduced scale where that is asked for."""
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


@dataclass(frozen=True)
class Joined(Images):
    """Several sets, one after the other."""

    name: str
    parts: tuple[Images, ...]

    @property
    def code(self) -> str:  # type: ignore[override]
        """The digests of the parts' code."""
        return " ".join(part.code for part in self.parts if part.code)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def _find(self, index: int) -> tuple[Images, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)

    def title(self, index: int) -> str:
        """Return the set's name and the image's."""
        part, index = self._find(index)
        return f"{part.name}/{part.title(index)}"

    def open(self, index: int) -> Image.Image:
        """Decode one image of the part that holds it."""
        part, index = self._find(index)
        return part.open(index)

    def reduced(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode one image of the part that holds it, at a reduced scale where that is asked for."""
        part, index = self._find(index)
        return part.reduced(index, side)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height that the part tells."""
        part, index = self._find(index)
        return part.size(index)


@dataclass(frozen=True)
class First(Images):
    """Evenly spaced images of a set (`--limit`), by their indices in it."""

    whole: Images
    numbers: tuple[int, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The whole set's name."""
        return self.whole.name

    @property
    def code(self) -> str:  # type: ignore[override]
        """The digest of the whole set's code."""
        return self.whole.code

    def __len__(self) -> int:
        return len(self.numbers)

    def title(self, index: int) -> str:
        """Return the title in the whole set."""
        return self.whole.title(self.numbers[index])

    def open(self, index: int) -> Image.Image:
        """Decode one image of the whole set."""
        return self.whole.open(self.numbers[index])

    def reduced(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode one image of the whole set, at a reduced scale where that is asked for."""
        return self.whole.reduced(self.numbers[index], side)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height that the whole set tells."""
        return self.whole.size(self.numbers[index])


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
