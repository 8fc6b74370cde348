"""A labelled data set: which images, which classes, and what exactly the numbers in its label files mean."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from PIL import Image

from densebench.datasets.io.decoding import image_size, read_image, read_mask
from densebench.datasets.io.digests import FileDigests, digests_of
from densebench.datasets.io.names import check_name
from densebench.datasets.label_maps import IGNORED, looked_up, numbered_table
from densebench.datasets.threads import in_threads
from densebench.errors import UserError, unknown
from densebench.files.atomic import cache_root, digest, read_checked, sweep, write_checked
from densebench.pictures.palette import Colour, distinct_palette
from densebench.user_code import reduced

SAMPLE = 32  # images of a split that `verify` opens
MANY = 2000  # files from which on hashing shows a progress bar

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One labelled image: its official identifier and its two files (None where they are generated)."""

    name: str
    image: Path | None
    label: Path | None


@dataclass(frozen=True)
class Source:
    """One archive to fetch, or one thing to do by hand.

    url: the archive's address; with `by_hand`, the page to start from.
    gives: paths below the data root that exist once it is done.
    into: the folder below the data root where the archive is unpacked.
    inside: unpack only what lies under this folder of the archive, without the folder itself.
    nested: archives inside the archive (paths below `into`), unpacked where they lie.
    checksum: "sha256:..." or "md5:..." as published, or None. bytes: the archive's size, where known.
    by_hand: what to fetch and where to put it, in words, when no program may or can do it.
    """

    url: str
    gives: tuple[str, ...]
    into: str = ""
    inside: str = ""
    nested: tuple[str, ...] = ()
    checksum: str | None = None
    bytes: int | None = None
    by_hand: str = ""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Base of all data sets; a subclass gives the defaults of the fields, `list_items` and, where needed, `label_table`.

    root: the data root, under which each data set has its official layout.
    splits: the splits that exist; train_split and val_split: those that an evaluation takes by default.
    ignore_index: the id of unlabelled pixels in what `label` returns (always 255).
    reduce_zero_label: the files number the classes from 1, and 0 (unlabelled, or the background) is ignored.
    background: the id of the background class, or None.
    mapping: the identity of the mapping from label files to ids, with its version; part of every label digest.
    image_size_hint: the side in px of the square to which evaluations resize images by default.
    code: the digest of the user's own code that defines the data set; "" for a built-in one.
    """

    root: Path
    name: str = ""
    title: str = ""
    classes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train", "val")
    train_split: str = "train"
    val_split: str = "val"
    ignore_index: int = IGNORED
    reduce_zero_label: bool = False
    background: int | None = None
    mapping: str = ""
    image_size_hint: int = 512
    licence: str = ""
    code: str = ""

    sources: ClassVar[tuple[Source, ...]] = ()
    official_counts: ClassVar[dict[str, int]] = {}
    """How many images a split has officially: as many as `items` gives when nothing is missing."""
    kind: ClassVar[str] = "label maps"
    """What its labels are: a protocol takes one kind ("label maps", "videos", "boxes")."""

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)  # by fields: digests stay here

    def list_items(self, split: str) -> Iterable[Item]:
        """Return the images of a split in the official order. Raises UserError naming the missing folder or list."""
        raise NotImplementedError

    def label_table(self) -> np.ndarray:
        """Return what each value 0..255 of a label file becomes, int16 [256]: an id, 255 (ignored) or -1 (not allowed)."""
        return numbered_table(len(self.classes), self.reduce_zero_label)

    def raw_label(self, item: Item) -> np.ndarray:
        """Return the label file of an item as it is, uint8 [h, w]."""
        return read_mask(_path(item.label, item))

    def palette(self) -> list[Colour]:
        """Return one colour a class, for pictures."""
        return distinct_palette(len(self.classes))

    def label_identity(self, item: Item) -> str:
        """Return what, besides the bytes of the label file, decides the result of `label`."""
        return self.mapping

    def state(self) -> Literal["present", "partly", "absent"]:
        """Return whether the files of the sources are there, by the existence of their folders alone."""
        exist = [(self.root / path).exists() for source in self.sources for path in source.gives]
        return "present" if all(exist) else "partly" if any(exist) else "absent"

    @property
    def remedy(self) -> str:
        """How to get the missing files, in words for an error message."""
        if self.sources and all(source.by_hand for source in self.sources):
            return f"see `densebench data get {self.name}` for what to fetch by hand"
        return f"run `densebench data get {self.name}` or give another --data-root"

    def items(self, split: str) -> tuple[Item, ...]:
        """Return the images of a split in the official order.

        Raises UserError for an unknown split, for missing files, and for a name that would leave a folder it is joined to.
        """
        if split not in self.splits:
            raise unknown("split", split, self.splits, f"{self.name} has {', '.join(self.splits)}")
        items = tuple(self.list_items(split))
        for item in items:
            check_name(item.name, f"{self.name}, split {split},")
        if not items:
            raise UserError(f"{self.name} has no image in split {split!r} under {self.root}; {self.remedy}")
        return items

    def has(self, split: str) -> bool:
        """Return whether images of a split are there, in whole or in part."""
        with suppress(UserError):
            return bool(self.items(split))
        return False

    def official_images(self, split: str) -> int | None:
        """Return how many images a split has officially; None where that is not known."""
        return self.official_counts.get(split)

    def part(self, split: str, limit: int | None) -> list[Item]:
        """Return the images of a split; with a limit, at most that many, evenly spaced."""
        return limited(self.items(split), limit)

    def image(self, item: Item) -> Image.Image:
        """Return the image of an item, RGB. Raises UserError naming the file when it is missing or broken."""
        return read_image(_path(item.image, item))

    def label(self, item: Item) -> np.ndarray:
        """Return the class of each pixel: uint8 [h, w], ids 0..C-1, 255 ignored.

        Raises UserError naming the file when it is missing or broken, holds a value that the data set does not have,
        or differs in size from its image.
        """
        raw = self.raw_label(item)
        ids = looked_up(raw, self.label_table(), item.label, self.name, len(self.classes))
        self.check_size(item, raw.shape)
        return ids

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return the width and height of an item's image, as Pillow orders them, from its header alone."""
        return image_size(_path(item.image, item))

    def facts(self) -> dict[str, Any]:
        """Return what a record says about the labels."""
        return {"classes": len(self.classes), "mapping": self.mapping}

    def extent(self, split: str, limit: int | None) -> dict[str, Any]:
        """Return what a record says of how much of a split is scored, besides the number of images."""
        return {}

    def check_size(self, item: Item, shape: tuple[int, ...]) -> None:
        """Raise UserError where the label map's (h, w) differs from the image's."""
        width, height = self.image_size(item)
        if shape != (height, width):
            raise UserError(
                f"the label map {item.label} is {shape[1]} x {shape[0]} but its image {item.image} is {width} x {height} "
                "(width x height); fetch both again"
            )

    def image_digest(self, item: Item) -> str:
        """Return the SHA-256 of the image file: all that its features depend on besides the model."""
        return self._digests.digest(_path(item.image, item))

    def label_digest(self, item: Item) -> str:
        """Return the identity of what `label` returns: the bytes of the label file and the mapping."""
        return digest([self._digests.digest(_path(item.label, item)), self.label_identity(item)])

    def image_digests(self, items: Iterable[Item]) -> list[str]:
        """Return `image_digest` of many items, together; remembers them for the next run."""
        return self._hashed(self.image_digest, items, f"image digests of {self.name}")

    def label_digests(self, items: Iterable[Item]) -> list[str]:
        """Return `label_digest` of many items, together; remembers them for the next run."""
        return self._hashed(self.label_digest, items, f"label digests of {self.name}")

    def digest(self, split: str, items: Iterable[Item]) -> str:
        """Return the identity of a split, or of a part of it: names, image bytes, label bytes and mapping, in order."""
        items = tuple(items)
        rows = zip((item.name for item in items), self.image_digests(items), self.label_digests(items), strict=True)
        return digest([split, *(list(row) for row in rows)])

    def presence(self, items: Iterable[Item]) -> np.ndarray:
        """Return which classes each image shows, bool [n, C]. Cached by label digests, so that label maps are decoded once."""
        items = tuple(items)
        key = digest([len(self.classes), self.label_digests(items), *([self.code] if self.code else [])], 32)
        path = cache_root() / "presence" / f"{key}.npy"
        if (content := read_checked(path)) is not None:
            return np.load(io.BytesIO(content), allow_pickle=False)
        rows = in_threads(self._classes_shown, items, f"classes of {self.name}")
        table = np.stack(rows) if rows else np.zeros((0, len(self.classes)), bool)
        stream = io.BytesIO()
        np.save(stream, table)
        sweep(path.parent)
        write_checked(path, stream.getvalue())
        return table

    def verify(self, full: bool = False) -> list[str]:
        """Return what is wrong with the files, in words; empty when nothing is. Opens a sample of each split, or all (`full`)."""
        problems = []
        for split in self.splits:
            try:
                items = self.items(split)
            except UserError as error:
                problems.append(f"{split}: {error}")
                continue
            official = self.official_counts.get(split)
            if official is not None and len(items) != official:
                problems.append(f"{split}: {len(items)} of the official {official} images")
            missing = [path for item in items for path in (item.image, item.label) if path is not None and not path.is_file()]
            if missing:
                problems.append(f"{split}: {len(missing)} files are missing, the first is {missing[0]}")
            complete = [item for item in items if not {item.image, item.label} & set(missing)]
            step = 1 if full else max(1, len(complete) // SAMPLE)
            flaws = in_threads(self._problem, complete[::step], f"verify {self.name} {split}")
            problems += [f"{split}: {flaw}" for flaw in flaws if flaw]
        return problems

    def read(self, item: Item) -> None:
        """Read all that there is of an item. Raises UserError naming the file that is missing or broken."""
        self.image(item)
        self.label(item)

    def _problem(self, item: Item) -> str:
        try:
            self.read(item)
        except UserError as error:
            return str(error)
        return ""

    def _classes_shown(self, item: Item) -> np.ndarray:
        return np.bincount(self.label(item).ravel(), minlength=256)[: len(self.classes)] > 0

    def _hashed(self, work: Callable[[Item], str], items: Iterable[Item], label: str) -> list[str]:
        items = tuple(items)
        digests = in_threads(work, items, label) if len(items) >= MANY else [work(item) for item in items]
        self._digests.save()
        return digests

    @functools.cached_property
    def _digests(self) -> FileDigests:
        return digests_of(digest(self.name, 16))


def _path(path: Path | None, item: Item) -> Path:
    if path is None:
        raise UserError(f"the item {item.name} has no file; it belongs to another data set")
    return path


def files_in(folder: Path, pattern: str, remedy: str) -> list[Path]:
    """Return the files of a folder that match, sorted by name. Raises UserError where the folder is missing."""
    if not folder.is_dir():
        raise UserError(f"the folder {folder} is missing; {remedy}")
    return sorted(folder.glob(pattern))


def limited(items: Sequence[T], limit: int | None) -> list[T]:
    """Return at most `limit` items, evenly spaced from the first to the last; all of them where `limit` is None."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, limit).round().astype(int)]
