"""Which pictures of a folder are frames of a video: numbered files of one size that change little from one to the next."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath

import numpy as np

from densebench.datasets.images import Images
from densebench.errors import UserError
from densebench.looking.thumbnails import decoder, thumbnail

LEAST = 6
"""Frames that a video has at least, if nobody says that it is one."""
PROBED = 12
"""Pairs of neighbouring frames that are compared."""
FOLDERS = 20
"""Folders of numbered files whose pictures are compared, at most."""
NEAR, NEARER = 0.12, 0.7
"""Frames that follow each other differ by less than this (of the range of values), and by less than this share of what frames
differ that are far apart."""
NUMBERED = re.compile(r"^(.*?)(\d+)$")


def videos_among(images: Images, video: bool | None) -> dict[str, list[int]]:
    """Return the indices of the frames of each video, by its name: the folder that holds the frames, in order of their numbers.

    video: False: there is none. True: the pictures of every folder are one. None: folders whose files are numbered in equal
    steps, with frames of one size that change little from one to the next, which photographs in a row do not.
    """
    if video is False:
        return {}
    folders: dict[str, list[int]] = {}
    for index in range(len(images)):
        folders.setdefault(str(PurePosixPath(images.title(index)).parent), []).append(index)
    ordered = {
        images.name if folder == "." else folder: sorted(indices, key=lambda index: _natural(images.title(index)))
        for folder, indices in folders.items()
    }
    if video:
        return {name: frames for name, frames in ordered.items() if len(frames) > 1}
    numbered = [name for name, frames in ordered.items() if _is_numbered([images.title(index) for index in frames])]
    return {name: ordered[name] for name in numbered[:FOLDERS] if _changes_little(images, ordered[name])}


def _natural(title: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", title)]


def _changes_little(images: Images, frames: Sequence[int]) -> bool:
    """Return whether frames have one size, and neighbouring ones differ little, and less than those that are far apart."""
    starts = np.unique(np.linspace(0, len(frames) - 2, PROBED).round().astype(int))
    far = (starts + len(frames) // 2) % len(frames)
    with suppress(UserError), decoder("reduced"):  # a broken picture is told where it would be shown
        if len({images.size(frames[number]) for number in starts}) > 1:
            return False
        shown = {number: thumbnail(images, frames[number]) for number in {*starts, *(starts + 1), *far}}
        steps = np.median([np.abs(shown[number] - shown[number + 1]).mean() for number in starts])
        jumps = np.median([np.abs(shown[number] - shown[other]).mean() for number, other in zip(starts, far, strict=True)])
        return bool(steps < NEAR and steps < NEARER * jumps)
    return False


def _is_numbered(titles: Sequence[str]) -> bool:
    """Return whether there are enough names, which differ in their last number alone, and it grows in equal steps."""
    if len(titles) < LEAST:
        return False
    found = [NUMBERED.match(PurePosixPath(title).stem) for title in titles]
    parts = [(match[1], int(match[2])) for match in found if match]
    steps = {after[1] - before[1] for before, after in itertools.pairwise(parts)}
    return len(parts) == len(titles) and len({prefix for prefix, _ in parts}) == 1 and len(steps) == 1
