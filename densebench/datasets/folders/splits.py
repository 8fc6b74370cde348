"""Which images are trained on and which are evaluated: by folders, by lists of names, or by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from densebench.console import notice
from densebench.datasets.dataset import Item
from densebench.datasets.folders.options import FolderOptions
from densebench.datasets.folders.pairs import SPLITS, TEST, TRAIN, VAL
from densebench.datasets.io.names import at, check_name, read_lines
from densebench.errors import UserError

LISTS = ("ImageSets/Segmentation", "ImageSets", "splits", "lists", "")
"""Where lists of names may lie below the folder; the first that holds some is taken."""
OF_SPLITS = ("", "ImageSets/Main")
"""Where only lists that are called as a split count: among Pascal VOC's are lists of each class."""
SHARE = 0.2
LEAST = 2
"""Fewest images on either side of a split by a seed."""


@dataclass(frozen=True)
class Splits:
    """The splits of a folder. items: split -> images. train, val: those that an evaluation takes. rule: how they came about.

    message: what is printed about them.
    """

    items: dict[str, tuple[Item, ...]]
    train: str
    val: str
    rule: str
    message: str


def find_splits(
    options: FolderOptions, groups: Mapping[str, tuple[Item, ...]], needs_splits: bool = True, places: Sequence[str] = LISTS
) -> Splits:
    """Return the splits of images that folders have grouped already, or not (one group).

    needs_splits: whether too few images to be split by seed are an error; if not, they are one split, "all", and there is no
    message about a split by seed, since the caller takes all of them. places: where lists may lie.
    Raises UserError for a list that names an image which is not there, for images that are in the training and the evaluation
    split, for too few images, and for a split or a seed that has no meaning here.
    """
    items = {split: found for split, found in groups.items() if found}
    if len(items) > 1:
        return _chosen(options, items, "by folders")
    every = next(iter(items.values()), ())
    lists = _lists(options.root, places)
    listed = _every_list(lists, every)
    if _role(listed, TRAIN) and (_role(listed, VAL) or _role(listed, TEST)):
        return _chosen(options, listed, f"by lists in {lists[0].parent.name or options.root.name}/")
    if len(listed) == 1:
        every = next(iter(listed.values()))
    if not needs_splits and 0 < len(every) < 2 * LEAST:
        return Splits({"all": every}, "all", "all", "none", "not split, since they are few")
    splits = _by_seed(options, every)
    return splits if needs_splits else replace(splits, message="")


def _chosen(options: FolderOptions, items: dict[str, tuple[Item, ...]], rule: str) -> Splits:
    for key in ("seed", "val"):
        if key in options.values:
            raise UserError(
                f"{key} in {options.where(key)} would split at random, but {options.root} is split {rule}; leave {key} out"
            )
    names = _wanted(options, items) or tuple(items)
    train = names[0] if "splits" in options.values else _role(items, TRAIN) or names[0]
    rest = [name for name in names if name != train]
    val = names[-1] if "splits" in options.values else _role(items, VAL) or _role(items, TEST) or rest[-1]
    both = {item.name for item in items[train]} & {item.name for item in items[val]}
    if rule.startswith("by lists") and both and train != val:
        raise UserError(
            f"{len(both)} images of {options.root}, such as {min(both)}, are in the splits {train} and {val}; "
            "take them out of one list"
        )
    kept = {name: items[name] for name in names}
    return Splits(kept, train, val, rule, f"split {rule}: {', '.join(f'{len(kept[name])} {name}' for name in kept)}")


def _wanted(options: FolderOptions, items: Mapping[str, tuple[Item, ...]]) -> tuple[str, ...]:
    wanted = tuple(options.get("splits", ()))
    if strange := [name for name in wanted if name not in items]:
        raise UserError(f"splits in {options.where('splits')} names {strange[0]!r}; {options.root} has {', '.join(items)}")
    return wanted


def _role(items: Mapping[str, tuple[Item, ...]], names: Sequence[str]) -> str:
    """Return the split that has one of the names, in any case; "" where there is none."""
    return next((split for name in names for split in items if split.lower() == name), "")


def _lists(root: Path, places: Sequence[str]) -> list[Path]:
    """Return the lists of names: all .txt of a folder of lists, or those at the top that are called as a split."""
    for folder in places:
        paths = sorted((root / folder).glob("*.txt"))
        if chosen := [path for path in paths if folder not in OF_SPLITS or path.stem.lower() in SPLITS]:
            return sorted(chosen, key=lambda path: SPLITS.index(path.stem.lower()) if path.stem.lower() in SPLITS else 99)
    return []


def _every_list(lists: Sequence[Path], items: Sequence[Item]) -> dict[str, tuple[Item, ...]]:
    """Return the images of each list, by its name; one of several that is neither train, val nor test is left out where it names
    images that are not there, as trainaug of VOC does."""
    found = {}
    for path in lists:
        try:
            found[path.stem] = _listed(path, items)
        except UserError as error:
            if len(lists) == 1 or path.stem.lower() in (*TRAIN, *VAL, *TEST):
                raise
            notice(f"{path.name} is left out: {error}")
    return found


def _listed(path: Path, items: Sequence[Item]) -> tuple[Item, ...]:
    """Return the images of a list, in its order: a name a line, with or without folders and ending, or an image and a label map.

    Raises UserError for a name without an image, and for one that is listed twice.
    """
    known = {key: item for item in items for key in _keys(item)}
    found: dict[str, Item] = {}
    for number, line in read_lines(path, "write it again"):
        words = (line, line.split()[0])
        item = next((known[name] for word in words if (name := PurePosixPath(word).name) in known), None)
        check_name(words[1].removeprefix("/"), at(path, number))
        if item is None:
            raise UserError(f"{at(path, number)} names {line[:100]!r}, which is no image with a label map; correct the list")
        if item.name in found:
            raise UserError(f"{at(path, number)} names {line[:100]!r} a second time; remove one")
        found[item.name] = item
    if not found:
        raise UserError(f"the list {path} is empty; write a name on each line or remove it")
    return tuple(found.values())


def _keys(item: Item) -> set[str]:
    return {item.name, *({item.image.name, item.image.stem} if item.image else ())}


def _by_seed(options: FolderOptions, items: Sequence[Item]) -> Splits:
    """Return a split that depends on each image's name and the seed alone: another image moves none of the others.

    An image is evaluated where the SHA-256 of "seed:name", as a fraction, lies below the share. Where that leaves fewer than
    LEAST images on one side, those with the lowest (or highest) fractions are taken.
    """
    seed, share = options.get("seed", 0), float(options.get("val", SHARE))
    if len(items) < 2 * LEAST:
        raise UserError(
            f"{options.root} has {len(items)} images with labels; a split by seed needs {2 * LEAST}, half of them to be evaluated"
        )
    if splits := options.get("splits", None):
        raise UserError(
            f"splits in {options.where('splits')} names {splits[0]!r}, but {options.root} has no such folders or lists"
        )
    order = sorted(items, key=lambda item: (fraction(item.name, seed), item.name))
    count = sum(fraction(item.name, seed) < share for item in items)
    count = min(max(count, LEAST), len(items) - LEAST)
    held = {item.name for item in order[:count]}
    parts = {
        "train": tuple(item for item in items if item.name not in held),
        "val": tuple(item for item in items if item.name in held),
    }
    rule = f"by seed {seed}, {share:g} of the names for val"
    return Splits(parts, "train", "val", rule, f"split by seed {seed}: {len(parts['train'])} train, {len(parts['val'])} val")


def fraction(name: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the name and the seed: the first 52 bits of a SHA-256."""
    head = hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).hexdigest()[:13]
    return int(head, 16) / 16**13
