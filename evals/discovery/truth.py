"""What a data set says about the objects of a picture: their boxes, or which pixels show any object."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.threads import in_threads
from densebench.datasets.videos import Videos
from densebench.errors import UserError

BOXES, MASKS, BOTH = "boxes", "masks", "both"


def _no_boxes() -> Float[np.ndarray, "0 4"]:
    return np.zeros((0, 4))


def _no_classes() -> Int[np.ndarray, "0"]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of a picture.

    boxes: left, top, right, bottom in px, exclusive maxima. classes: of the boxes. mask: the pixels of any object, and scored:
    those that are labelled; None where the data set has no masks, or they are not wanted.
    """

    boxes: Float[np.ndarray, "k 4"] = field(default_factory=_no_boxes)
    classes: Int[np.ndarray, "k"] = field(default_factory=_no_classes)
    mask: Bool[np.ndarray, "h w"] | None = None
    scored: Bool[np.ndarray, "h w"] | None = None


def truth_in(dataset: Dataset, wanted: str | None) -> str:
    """Return what is scored of a data set: "boxes", "masks" or "both". wanted: one of these; None: all that it has.

    Raises UserError, in one line, for a data set without objects, and for what it does not have.
    """
    has = _truth_of_kind(dataset)
    if wanted is None or wanted == has or (has == BOTH and wanted in (BOXES, MASKS)):
        return wanted or has
    raise UserError(f"--truth {wanted}: {dataset.name} has {has} alone; leave --truth out, or give another data set")


def _truth_of_kind(dataset: Dataset) -> str:
    if isinstance(dataset, Boxed):
        return BOTH if dataset.has_masks else BOXES
    if isinstance(dataset, Videos):
        return MASKS
    if dataset.kind != "label maps":
        raise UserError(f"--dataset {dataset.name} has {dataset.kind}; objects are found where there are boxes or masks of them")
    if dataset.background is None:
        raise UserError(
            f"--dataset {dataset.name} has no background class, so that every pixel would be an object; give one that has, "
            "such as voc, or one with boxes"
        )
    return MASKS


def with_objects(dataset: Dataset, items: Sequence[Item], truth: str, hard: bool) -> list[Item]:
    """Return the pictures that show an object that counts; see `counted`."""
    return [item for item, shown in zip(items, _shown(dataset, items, hard), strict=True) if shown]


def _shown(dataset: Dataset, items: Sequence[Item], hard: bool) -> list[bool]:
    if isinstance(dataset, Boxed):
        return [bool(counted(dataset.truth(item), hard).any()) for item in items]
    if isinstance(dataset, Videos):
        return in_threads(functools.partial(_shows_any, dataset), items, f"objects of {dataset.name}")
    background = np.arange(len(dataset.classes)) == dataset.background
    return [bool(shown) for shown in (dataset.presence(items) & ~background).any(1)]


def _shows_any(dataset: Dataset, item: Item) -> bool:
    return bool(dataset.label(item).any())


def counted(objects: Objects, hard: bool) -> Bool[np.ndarray, "n"]:
    """Return which objects count: no crowd, with an area above 0.

    hard: whether those count too that are marked as difficult or truncated.
    """
    sized = (objects.boxes[:, 2:] > objects.boxes[:, :2]).all(1)
    easy = ~(objects.difficult | objects.truncated)
    return sized & ~objects.crowd & (easy | hard)


def truth_of(dataset: Dataset, item: Item, truth: str, hard: bool) -> Truth:
    """Return the objects of a picture. truth: as `truth_in` returns it."""
    if not isinstance(dataset, Boxed):
        return _of_label_map(dataset, item)
    objects = dataset.truth(item)
    kept = counted(objects, hard)
    boxes = (objects.boxes[kept], objects.classes[kept]) if truth != MASKS else (_no_boxes(), _no_classes())
    return Truth(*boxes, *(_union(dataset, item, objects) if truth != BOXES else ()))


def _of_label_map(dataset: Dataset, item: Item) -> Truth:
    label = dataset.label(item)
    background = 0 if isinstance(dataset, Videos) else dataset.background
    scored = label != dataset.ignore_index
    return Truth(mask=(label != background) & scored, scored=scored)


def _union(dataset: Boxed, item: Item, objects: Objects) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Return the pixels of any object, and those that are scored: all but those that a crowd alone covers."""
    from densebench.bridges.torchvision.masks import decode

    width, height = dataset.image_size(item)
    inside = decode(objects.masks, height, width, item.name).astype(bool)
    mask, crowd = inside[~objects.crowd].any(0), inside[objects.crowd].any(0)
    return mask, mask | ~crowd
