"""The user's own videos: `frames:DIR`, in the layout of DAVIS.

    DIR/JPEGImages/<resolution>/<sequence>/<frame>.*  jpg, jpeg or png; the folder <resolution> may be left out
    DIR/Annotations/<resolution>/<sequence>/<frame>.png  ids 1..n of the objects, 0 background, 255 void; greyscale or paletted
    DIR/ImageSets/<split>.txt  names of sequences, a line each; may lie in a folder such as 2017, and may be left out

Of several resolutions 480p is taken. Without lists all sequences are one split, `all`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from densebench.datasets.videos import Videos, read_names
from densebench.errors import UserError

EVERY = "all"


@dataclass(frozen=True, kw_only=True)
class Frames(Videos):
    """A folder of frames and masks. `root` is the folder itself; lists is the folder of its lists, if it has any."""

    resolution: str = ""
    lists: Path | None = None

    @property
    def remedy(self) -> str:
        """Where the layout is described; nothing can be fetched."""
        return "see densebench.datasets.frames for the layout"

    @property
    def frames_folder(self) -> Path:
        """JPEGImages, and the resolution where there is one."""
        return self.root / "JPEGImages" / self.resolution

    @property
    def masks_folder(self) -> Path:
        """Annotations, and the resolution where there is one."""
        return self.root / "Annotations" / self.resolution

    def names(self, split: str) -> list[str]:
        """Return the sequences in a split's list; all sequences, sorted, where there is no list."""
        if self.lists is None:
            return sorted(path.name for path in self.frames_folder.iterdir() if path.is_dir())
        return read_names(self.lists / f"{split}.txt", self.remedy)


def open_frames(name: str) -> Frames:
    """Return the data set behind `frames:DIR`. Raises UserError for a folder that is missing or whose layout is unclear."""
    root = Path(name.removeprefix("frames:"))
    images = root / "JPEGImages"
    if not os.path.isdir(images):  # noqa: PTH112 (Path raises for a name that is too long)
        raise UserError(f"the folder {images} is missing; see densebench.datasets.frames for the layout")
    lists = _lists(root / "ImageSets")
    splits = tuple(sorted(path.stem for path in lists.glob("*.txt"))) if lists else (EVERY,)
    return Frames(
        root=root,
        name=name,
        title=f"videos in {root.name}",
        splits=splits,
        train_split="train" if "train" in splits else splits[0],
        val_split="val" if "val" in splits else splits[-1],
        mapping="frames-ids-v1",
        resolution=_resolution(images),
        lists=lists,
    )


def holds_videos(root: Path) -> bool:
    """Return whether JPEGImages and Annotations of a folder hold folders alone, as those of videos do, and none called train."""
    parts = (root / "JPEGImages", root / "Annotations")
    if not all(os.path.isdir(part) and os.access(part, os.R_OK) for part in parts):  # noqa: PTH112
        return False
    return all(path.is_dir() and path.name != "train" for part in parts for path in part.iterdir())


def _resolution(images: Path) -> str:
    """Return the folder between JPEGImages and the sequences; empty where sequences lie in JPEGImages itself."""
    names = [path.name for path in sorted(images.iterdir()) if path.is_dir() and any(part.is_dir() for part in path.iterdir())]
    if len(names) > 1 and "480p" not in names:
        raise UserError(f"{images} holds several resolutions, {', '.join(names)}, and no 480p; leave one of them there")
    return "480p" if "480p" in names else "".join(names)


def _lists(folder: Path) -> Path | None:
    """Return the folder that holds the lists: ImageSets itself, or the latest year in it."""
    if any(folder.glob("*.txt")):
        return folder
    return next((path.parent for path in sorted(folder.glob("*/*.txt"), reverse=True) if path.parent.name.isdigit()), None)
