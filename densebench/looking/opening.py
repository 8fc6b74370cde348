"""What a look opens: a folder, a picture, shards, a data set or pictures in memory, and which of them are frames of videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from densebench.console import notice
from densebench.datasets import load_dataset
from densebench.datasets.catalog import titles
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.folder import SUFFIXES
from densebench.datasets.images import Images
from densebench.datasets.unlabelled import Labelled, Tree, open_images
from densebench.datasets.videos import Videos
from densebench.errors import UserError
from densebench.looking.sequences import videos_among

Source = str | Path | Dataset | Images | Image.Image | Sequence[Image.Image]
PICTURES_OF = ("JPEGImages", "images")
"""Folders that hold the pictures where others beside them hold labels."""
RESOLUTION = "480p"  # the one that DAVIS is looked at in


@dataclass(frozen=True)
class Opened:
    """Pictures, and the indices of the frames of each video among them, in order."""

    images: Images
    videos: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class InMemory(Images):
    """Pictures that the caller has decoded already."""

    pictures: tuple[Image.Image, ...]
    name: str = "pictures"

    def __len__(self) -> int:
        return len(self.pictures)

    def title(self, index: int) -> str:
        """Return the number of the picture, from 1."""
        return f"picture {index + 1}"

    def open(self, index: int) -> Image.Image:
        """Return the picture as RGB."""
        return self.pictures[index].convert("RGB")


def opened(source: Source, root: str | Path | None = None, video: bool | None = None) -> Opened:
    """Open what is looked at. video: whether pictures of a folder are frames of videos; None: decided by names and pixels.

    Of a folder with JPEGImages or images in it, only these are taken: label maps lie beside them. Raises UserError for what is
    unknown, missing or unreadable, and where there is no picture.
    """
    if isinstance(source, Images):
        images = source
    elif isinstance(source, Image.Image):
        images = InMemory((source,))
    elif isinstance(source, str | Path | Dataset):
        return _named(source, root, video)
    else:
        images = InMemory(_pictures(source))
    if not len(images):
        raise UserError("there is no picture to look at; give at least one")
    return Opened(images, videos_among(images, video))


def _pictures(given: Any) -> tuple[Image.Image, ...]:
    pictures = tuple(given) if isinstance(given, list | tuple) else ()
    if not pictures or not all(isinstance(each, Image.Image) for each in pictures):
        raise UserError("look takes a folder, a picture, a data set, or a list of pictures (PIL.Image), at least one")
    return pictures


def _named(source: str | Path | Dataset, root: str | Path | None, video: bool | None) -> Opened:
    dataset = _dataset(source, root)
    if dataset is not None:
        items = _items(dataset)
        return Opened(Labelled(dataset.name, dataset, items), _sequences(dataset, items) if video is not False else {})
    assert not isinstance(source, Dataset)
    path = Path(source)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return Opened(Tree(path.parent.resolve().name, path.parent, (path.name,)), {})
    images = open_images(_pictures_of(path) if path.is_dir() else source, root)
    if path.is_dir():
        images = replace(images, name=path.resolve().name)  # type: ignore[type-var]
    return Opened(images, videos_among(images, video))


def _dataset(source: str | Path | Dataset, root: str | Path | None) -> Dataset | None:
    """Return the data set of this name; None for what is none, such as a folder of pictures."""
    if isinstance(source, Dataset):
        return source
    name = str(source)
    by_name = (
        name in titles() or name.startswith(("folder:", "frames:", "boxes:")) or (name.endswith(".py") and Path(name).is_file())
    )
    return load_dataset(name, root) if by_name else None


def _items(dataset: Dataset) -> tuple[Item, ...]:
    """Return the items of the training split, or of another one where only that is there; of videos, of the validation split."""
    first = dataset.val_split if isinstance(dataset, Videos) else dataset.train_split
    order = [first, *(split for split in dataset.splits if split != first)]
    return dataset.items(next((split for split in order if dataset.has(split)), first))


def _sequences(dataset: Dataset, items: Sequence[Item]) -> dict[str, list[int]]:
    if not isinstance(dataset, Videos):
        return {}
    numbers = {item.name: number for number, item in enumerate(items)}
    return {name: [numbers[item.name] for item in frames] for name, frames in dataset.sequences(items).items()}


def _pictures_of(folder: Path) -> Path:
    """Return the folder of the pictures in a folder that holds label maps too; of several resolutions 480p."""
    inside = next((folder / name for name in PICTURES_OF if (folder / name).is_dir()), None)
    if inside is None:
        return folder
    chosen = inside / RESOLUTION if (inside / RESOLUTION).is_dir() else inside
    notice(f"look: the pictures of {chosen}")
    return chosen
