"""Which images belong together, so that a cross-validation never divides them.

A model that has seen one frame of a video and predicts the next looks better than it is on new images. By default
near-duplicates form a group, found by their pixels; for whole videos the user says how names or folders tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from densebench.console import notice
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.threads import in_threads
from densebench.errors import UserError

LEAST = 4
"""Fewest groups of images that can be cross-validated."""
ALIKE = 0.95
"""Correlation of two thumbnails from which on they count as the same view; unrelated photographs stay below 0.93."""
THUMBNAIL = 16  # px
KINDS = ("auto", "none", "folder")


@dataclass(frozen=True)
class Groups:
    """Which group each image belongs to, numbered by first appearance.

    rule: how images were grouped, in words; "" where none are. doubt: why scores may be too high since nothing is grouped, or "".
    """

    of_image: np.ndarray
    rule: str = ""
    doubt: str = ""

    @property
    def count(self) -> int:
        """How many groups there are; as many as images where none belong together."""
        return int(self.of_image.max()) + 1


def find_groups(dataset: Dataset, items: Sequence[Item], how: str = "auto") -> Groups:
    """Return which images belong together.

    how: "auto", near-duplicates by their pixels; "none"; "folder", the images of one folder; else a regular expression that is
    searched in the name of each image, and what it matches, or its first group, names the group.
    Raises UserError for a pattern that is wrong or matches no name, and where fewer than four groups are left.
    """
    if how == "none":
        groups = Groups(np.arange(len(items)))
    elif how == "auto":
        groups = near_duplicates(thumbnails(dataset, items))
    else:
        names = [str(item.image.parent) for item in items if item.image is not None] if how == "folder" else []
        names = names if how == "folder" else [_matched(how, item.name) for item in items]
        if len(names) < len(items):
            raise UserError("--groups folder: the images of this data set are generated and lie in no folder; leave it out")
        groups = Groups(_numbered(names), f"by {'folder' if how == 'folder' else f'the pattern {how}'}")
    if groups.count < LEAST:
        what = f"{len(items)} labelled images" + (f" in {groups.count} groups ({groups.rule})" if groups.rule else "")
        remedy = "label more of them" if not groups.rule else "label images of other groups, or give another --groups"
        raise UserError(f"{what}: a cross-validation takes at least {LEAST}{' groups' if groups.rule else ''}; {remedy}")
    return groups


def _matched(pattern: str, name: str) -> str:
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise UserError(f"--groups {pattern}: not a regular expression ({error}); give one, or {', '.join(KINDS)}") from error
    if found is None:
        raise UserError(f"--groups {pattern}: it matches nothing in the name {name}; give a pattern that all names match")
    return found.group(1 if found.re.groups else 0) or ""


def _numbered(names: Sequence[str]) -> np.ndarray:
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names])


def thumbnails(dataset: Dataset, items: Sequence[Item]) -> np.ndarray:
    """Return a small grey copy of each image as a row of length 1 and mean 0 [images, pixels]; a plain image is a row of 0."""

    def one(item: Item) -> np.ndarray:
        small = dataset.image(item).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        values = np.asarray(small, np.float64).ravel()
        centred = values - values.mean()
        return centred / max(float(np.linalg.norm(centred)), 1e-9)

    return np.stack(in_threads(one, items, "looking for near-duplicates"))


def near_duplicates(rows: np.ndarray, alike: float = ALIKE) -> Groups:
    """Return groups of images whose `thumbnails` are alike, directly or by way of others, as the frames of a slow video are.

    Where more than half of the images would be one group, as from a camera that does not move, none is made, and a notice says
    so: every new image is as like these as they are to one another.
    """
    linked = rows @ rows.T >= alike
    group = np.arange(len(rows))
    while True:
        nearest = np.where(linked, group, len(rows)).min(axis=1)
        lower = np.minimum(group, nearest)
        if (lower == group).all():
            break
        group = lower
    numbers = _numbered([str(number) for number in group])
    sizes = np.bincount(numbers)
    if sizes.max() > max(1, len(rows) / 2):
        doubt = (
            f"{sizes.max()} of {len(rows)} images look almost the same; they are held out one by one. If they are frames of "
            "one video and new images will not be, the scores are too high: --groups PATTERN keeps each video in one fold"
        )
        notice(doubt)
        return Groups(np.arange(len(rows)), doubt=doubt)
    if sizes.max() == 1:
        return Groups(numbers)
    return Groups(numbers, f"{sizes[sizes > 1].sum()} near-duplicates in {(sizes > 1).sum()} sets")


def suggested_pattern(items: Sequence[Item]) -> str:
    """Return in words which videos the names tell of, and the pattern that keeps them apart; "" where they tell of none."""
    stems = [match[1] for item in items if (match := re.fullmatch(r"(.+?)[_\-. ]?f?\d+", item.name))]
    counts = {stem: stems.count(stem) for stem in dict.fromkeys(stems)}
    if len(stems) < len(items) or not 1 < len(counts) <= len(items) / 2 or min(counts.values()) < 2:
        return ""
    shown = ", ".join(list(counts)[:3]) + (", ..." if len(counts) > 3 else "")
    return (
        f"by their names the images come from {len(counts)} videos ({shown}), and training and held-out images share them: the "
        "scores hold for new images of the same videos"
        + ("; --groups '^(.+?)[_.-]?[0-9]+$' keeps each video in one fold" if len(counts) >= LEAST else "")
    )
