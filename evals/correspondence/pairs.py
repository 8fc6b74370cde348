"""The pairs that are scored: which of them, in which direction, and by which length their errors are measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from densebench.datasets.keypoints import Box, Pair

SEED = 20  # of the draw of pairs of a class, Probe3D's
THRESHOLDS = ("box", "picture", "square")


@dataclass(frozen=True)
class LeftOut:
    """Pairs that cannot be scored, by name: those without a keypoint, and those whose box has no size."""

    without_keypoints: tuple[str, ...] = ()
    box_without_size: tuple[str, ...] = ()


def turned(pair: Pair) -> Pair:
    """Return the pair with source and target exchanged."""
    return replace(
        pair, source=pair.target, target=pair.source, source_points=pair.target_points, target_points=pair.source_points,
        source_box=pair.target_box, target_box=pair.source_box,
    )  # fmt: skip


def usable(pairs: Sequence[Pair], threshold: str) -> tuple[list[Pair], LeftOut]:
    """Return the pairs that can be scored with a threshold, and the names of the others."""
    kept, bare, sizeless = list[Pair](), list[str](), list[str]()
    for pair in pairs:
        if not len(pair.source_points):
            bare.append(pair.name)
        elif threshold == "box" and pair.target_box is not None and longer(pair.target_box) <= 0:
            sizeless.append(pair.name)
        else:
            kept.append(pair)
    return kept, LeftOut(tuple(bare), tuple(sizeless))


def drawn(pairs: Sequence[Pair], indices: Sequence[int], per_class: int | None) -> list[int]:
    """Return the indices of at most so many pairs of each class, among those of `indices`; all without a number.

    They are shuffled class by class with SEED and cut, as Probe3D does; the list itself comes from the data set, sorted.
    """
    if per_class is None:
        return list(indices)
    by_class: dict[str, list[int]] = {}
    for index in indices:
        by_class.setdefault(pairs[index].category, []).append(index)
    kept: set[int] = set()
    for of_class in by_class.values():
        shuffled = list(of_class)
        random.Random(SEED).shuffle(shuffled)
        kept.update(shuffled[:per_class])
    return [index for index in indices if index in kept]


def parts_of(pairs: Sequence[Pair], per_class: int | None) -> dict[str, list[int]]:
    """Return the indices of the pairs that are scored together: "" has those of all; "viewpoint 2" those of one level."""
    parts = {"": drawn(pairs, range(len(pairs)), per_class)}
    levels = sorted({level for pair in pairs for level in pair.levels})
    for level in levels:
        of_level = [index for index, pair in enumerate(pairs) if level in pair.levels]
        parts[f"{level[0]} {level[1]}"] = drawn(pairs, of_level, per_class)
    return parts


def longer(box: Box) -> float:
    """Return the longer side of a box in px."""
    left, top, right, bottom = box
    return max(right - left, bottom - top)


def length_of(pair: Pair, size: tuple[int, int], threshold: str) -> float:
    """Return the length of which thresholds are shares, in px; for "square" 1. size: width and height of the target, px.

    threshold: "box": the longer side of the target's box, or of the picture where the data set has no box. "picture": the
    longer side of the target's picture. "square": errors are those on the picture squashed to a square of side 1.
    """
    if threshold == "square":
        return 1.0
    return longer(pair.target_box) if threshold == "box" and pair.target_box is not None else float(max(size))


def errors(
    predicted: Float[np.ndarray, "*#many 2"], truth: Float[np.ndarray, "*#many 2"], size: tuple[int, int], threshold: str
) -> Float[np.ndarray, "..."]:
    """Return the distances of predictions from the truth: px, or shares of the side for "square"."""
    apart = predicted - truth
    if threshold == "square":
        apart = apart / np.array(size)
    return np.sqrt((apart**2).sum(-1))
