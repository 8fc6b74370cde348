"""A data set of which some images are corrupted, as a camera, the weather or a codec may do: for scores of robustness.

    corrupted(load_dataset("voc"), "fog:3", "val")

It is of the data set's own class too, so whatever takes the data set takes it. Its `image` returns pictures corrupted at their
own size, before any resize, since the strengths are in pixels. Their digests differ from those of the clean ones, so that neither
features nor records are confused. Every picture has a generator of its own, made of its digest and the corruption, and so has the
same pixels in any order, process or data set.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from densebench.datasets.catalog import data_root
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.io.decoding import read_image
from densebench.errors import UserError, unknown
from densebench.files.atomic import digest, file_digest
from densebench.numerics.corruptions import CORRUPTIONS, FROST, LEVELS, corrupt
from densebench.numerics.corruptions.pixels import SMALLEST
from densebench.numerics.corruptions.weather import PHOTOGRAPHS

VERSION = 1  # increase it, and the version of robustness, when the same picture would be corrupted otherwise
USUAL_LEVEL = 3
FROST_FOLDER = Path("imagecorruptions", "frost")
"""Where the photographs of frost lie below the data root."""


@dataclass(frozen=True)
class Corruption:
    """A corruption at a level of 1 to 5. frost: the folder of its photographs, for the one that needs them."""

    name: str
    level: int
    frost: Path | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.level}"

    @functools.cached_property
    def identity(self) -> list[Any]:
        """What decides, with the picture, the pixels."""
        photographs = [] if self.frost is None else [file_digest(self.frost / name) for name in PHOTOGRAPHS]
        return ["corruption", VERSION, self.name, self.level, *photographs]

    def of(self, clean: str) -> str:
        """Return the digest of a corrupted picture from that of the clean one."""
        return digest([clean, *self.identity])

    def applied(self, picture: Image.Image, clean: str) -> Image.Image:
        """Return a corrupted picture. clean: the digest of the clean one, which seeds the generator."""
        generator = np.random.Generator(np.random.PCG64(int(digest([clean, self.name, self.level], 32), 16)))
        photographs = () if self.frost is None else _photographs(self.frost)
        return Image.fromarray(corrupt(np.asarray(picture), self.name, self.level, generator, photographs))

    @staticmethod
    def read(text: str, dataset: Dataset) -> Corruption:
        """Read NAME or NAME:LEVEL, with dashes or the underscores of the reference. Raises UserError where it is unknown."""
        name, colon, level = text.partition(":")
        name = name.strip().lower().replace("_", "-")
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS, f"there are {', '.join(CORRUPTIONS)}")
        if colon and level not in map(str, LEVELS):
            raise UserError(f"--corrupt {text}: the level is {level!r}; give one of {', '.join(map(str, LEVELS))}")
        return Corruption(name, int(level) if colon else USUAL_LEVEL, frost_folder(dataset) if name == FROST else None)


def has_frost(dataset: Dataset) -> bool:
    """Return whether the photographs that the corruption frost needs are there."""
    return _frost_of(dataset) is not None


def frost_folder(dataset: Dataset) -> Path:
    """Return the folder of the photographs of frost. Raises UserError where one is missing."""
    if (folder := _frost_of(dataset)) is None:
        raise UserError(
            f"frost lays photographs over pictures, and {data_root() / FROST_FOLDER} lacks some of {', '.join(PHOTOGRAPHS)}; "
            "take them from the package imagecorruptions, as docs/score.md says, or choose another corruption"
        )
    return folder


def _frost_of(dataset: Dataset) -> Path | None:
    folders = [root / FROST_FOLDER for root in dict.fromkeys((dataset.root, data_root()))]
    return next((folder for folder in folders if all((folder / name).is_file() for name in PHOTOGRAPHS)), None)


@functools.cache
def _photographs(folder: Path) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(read_image(folder / name)) for name in PHOTOGRAPHS)


if TYPE_CHECKING:
    _Base = Dataset
else:
    _Base = object


class CorruptedImages(_Base):
    """What a corrupted data set does otherwise than the clean one; it stands before the clean one's class among the bases.

    What it needs is in the class, so it stays with every copy: those of workers, of `dataclasses.replace` and of memories.
    """

    applied_corruption: ClassVar[Corruption]
    chosen: ClassVar[frozenset[Item]]
    clean: ClassVar[type[Dataset]]

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (_cast(self, self.clean), self.applied_corruption, self.chosen)

    def image(self, item: Item) -> Image.Image:
        """Return the picture of an item, corrupted where it is a chosen one. Raises UserError for one that is too small."""
        picture = super().image(item)
        if item not in self.chosen:
            return picture
        if min(picture.size) < SMALLEST:
            raise UserError(
                f"the image {item.name} is {picture.width} x {picture.height} px (width x height); "
                f"corruptions need {SMALLEST} px a side: leave out --corrupt or the image"
            )
        return self.applied_corruption.applied(picture, super().image_digest(item))

    def image_digest(self, item: Item) -> str:
        """Return the identity of what `image` returns."""
        clean = super().image_digest(item)
        return self.applied_corruption.of(clean) if item in self.chosen else clean

    def image_digests(self, items: Iterable[Item]) -> list[str]:
        """Return `image_digest` of many items, together."""
        return Dataset.image_digests(self, items)

    def facts(self) -> dict[str, Any]:
        """Return what the clean data set's record says, and the corruption."""
        return {**super().facts(), "corruption": str(self.applied_corruption), "corrupted_at": "native size"}


def corrupted(dataset: Dataset, corruption: str, split: str) -> Dataset:
    """Return the data set with the images of `split` corrupted; all others stay clean.

    corruption: NAME or NAME:LEVEL, level 3 where none is given. An image that is learned from and scored, as all are where one
    split is both, is corrupted in both places. Raises UserError for an unknown name or level, where the photographs of frost
    are missing, and for a data set that is corrupted already.
    """
    if isinstance(dataset, CorruptedImages):
        raise UserError(f"{dataset.name} is corrupted by {dataset.applied_corruption} already; give the clean data set")
    return _made(dataset, Corruption.read(corruption, dataset), frozenset(dataset.items(split)))


def _made(dataset: Dataset, corruption: Corruption, chosen: frozenset[Item]) -> Dataset:
    return _cast(dataset, _kind(type(dataset), corruption, chosen))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=256)
def _kind(clean: type[Dataset], corruption: Corruption, chosen: frozenset[Item]) -> type[Dataset]:
    """Return the class of a corrupted data set: one for each corruption of the same images."""
    body = {"applied_corruption": corruption, "chosen": chosen, "clean": clean, "__module__": clean.__module__}
    return type(f"Corrupted{clean.__name__}", (CorruptedImages, clean), body)


def _cast(dataset: Dataset, kind: type[Dataset]) -> Any:
    """Return the values of a data set as one of another class; methods that one object replaced for itself do not go along."""
    values = {name: value for name, value in vars(dataset).items() if name not in ("image", "image_digest", "image_digests")}
    copied = object.__new__(kind)
    vars(copied).update(values)
    return copied
