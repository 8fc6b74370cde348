"""Videos with masks: every frame is annotated with the ids of its objects, and items are frames."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.io.names import at, check_name, read_lines
from densebench.errors import UserError

VOID = 255
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, kw_only=True)
class Videos(Dataset):
    """Base of data sets of videos; a subclass gives `frames_folder`, `masks_folder` and `names`.

    A frame is <frames>/<sequence>/<frame>.jpg, its mask <masks>/<sequence>/<frame>.png, with ids 1..n of the objects, 0 for the
    background and 255 for void. All frames have masks; the first one decides how many objects there are. Limits count sequences.
    """

    kind: ClassVar[str] = "videos"
    official_sequences: ClassVar[dict[str, int]] = {}

    @property
    def frames_folder(self) -> Path:
        """The folder of the sequences' frames."""
        raise NotImplementedError

    @property
    def masks_folder(self) -> Path:
        """The folder of the sequences' masks."""
        raise NotImplementedError

    def names(self, split: str) -> list[str]:
        """Return the names of a split's sequences in the official order."""
        raise NotImplementedError

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the frames of all sequences.

        Raises UserError for a sequence listed twice, a frame or a mask without the other.
        """
        names = self.names(split)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{self.name} lists the sequence {twice[0]} twice in {split}; list it once")
        for name in names:
            yield from self._frames(name)

    def _frames(self, name: str) -> Iterator[Item]:
        masks = {path.stem: path for path in _files(self.masks_folder / name, (".png",), self.remedy)}
        frames = {path.stem: path for path in _files(self.frames_folder / name, SUFFIXES, self.remedy)}
        for stem, image in frames.items():
            if stem not in masks:
                raise UserError(f"the frame {image} has no mask {self.masks_folder / name / stem}.png; {self.remedy}")
            yield Item(f"{name}/{stem}", image, masks[stem])
        if lone := sorted(masks.keys() - frames.keys()):
            raise UserError(f"the mask {masks[lone[0]]} has no frame in {self.frames_folder / name}; {self.remedy}")

    def sequences(self, items: Iterable[Item]) -> dict[str, list[Item]]:
        """Return the frames of every sequence, by its name, in order."""
        return {name: list(frames) for name, frames in itertools.groupby(items, sequence_of)}

    def part(self, split: str, limit: int | None) -> list[Item]:
        """Return the frames of a split; with a limit, those of at most that many whole sequences, evenly spaced."""
        chosen = limited(list(self.sequences(self.items(split)).values()), limit)
        return [item for frames in chosen for item in frames]

    def label(self, item: Item) -> UInt8[np.ndarray, "h w"]:
        """Return the id of the object at each pixel; void is background. Raises UserError where frame and mask differ in size."""
        raw = self.raw_label(item)
        self.check_size(item, raw.shape)
        return self.ids(raw)

    def ids(self, raw: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Return the ids of a mask's values: void is background."""
        return np.where(raw == VOID, 0, raw).astype(np.uint8)

    def predicted(self, raw: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Return the ids of a predicted mask, as they are; a void among them counts as a wrong id."""
        return raw

    def objects(self, frames: Sequence[Item]) -> int:
        """Return how many objects a sequence has: the greatest id in its first mask, as the official evaluation counts.

        Raises UserError where there is none.
        """
        count = int(self.label(frames[0]).max())
        if not count:
            values = np.unique(self.raw_label(frames[0])).tolist()
            raise UserError(
                f"the first mask {frames[0].label} shows no object: its values are {values}; "
                f"objects have ids from 1, {VOID} is void (davis2016 takes it as the object)"
            )
        return count

    def facts(self) -> dict[str, Any]:
        """Return what a record says about the masks; how many sequences and objects were scored stands beside the score."""
        return {"mapping": self.mapping}

    def verify(self, full: bool = False) -> list[str]:
        """Return what `Dataset.verify` does, and where the number of sequences is not the official one."""
        problems = super().verify(full)
        for split, official in self.official_sequences.items():
            try:
                listed = len(self.names(split))
            except UserError:
                continue  # reported already
            if listed != official:
                problems.append(f"{split}: {listed} of the official {official} sequences")
        return problems


def sequence_of(item: Item) -> str:
    """Return the sequence that a frame belongs to."""
    return item.name.rpartition("/")[0]


def read_names(path: Path, remedy: str) -> list[str]:
    """Return a list's sequences: a name a line, or (DAVIS 2016) "image mask" a line, with paths that end in <sequence>/<frame>.

    Raises UserError where the list cannot be read, and for a name that would leave the folder of the sequences.
    """
    firsts = [(number, line.split()[0]) for number, line in read_lines(path, remedy)]
    if any("/" not in first for _, first in firsts):
        return [check_name(first, at(path, number)) for number, first in firsts]
    names = [check_name(PurePosixPath(first).parent.name, at(path, number)) for number, first in firsts]
    return [name for name, _ in itertools.groupby(names)]


def _files(folder: Path, suffixes: tuple[str, ...], remedy: str) -> list[Path]:
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in suffixes)
    if not paths:
        raise UserError(f"the folder {folder} {'is empty' if folder.is_dir() else 'is missing'}; {remedy}")
    stems = [path.stem for path in paths]
    if twice := next((path for path, before in zip(paths[1:], stems, strict=False) if path.stem == before), None):
        raise UserError(f"two files in {folder} are called {twice.stem}; remove one")
    if paths != sorted(paths, key=_natural):
        raise UserError(
            f"the files of {folder} are numbered with unequal widths ({paths[0].name}, {paths[1].name}, ...): their order is not "
            "that of the video; pad the numbers with zeros"
        )
    return paths


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key by which the numbers in a name compare as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.stem)]
