"""Animals with keypoints, one in a picture, and the pairs that are made of two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from densebench.datasets.dataset import Item
from densebench.datasets.keypoints import Box, Pair


@dataclass(frozen=True, eq=False)
class Animal:
    """The one animal of a picture that counts.

    points: x, y in px of the picture, row i for part i. flags: how visible each is, as the file says; 0: not annotated.
    box: left, top, right, bottom in px. stated: the width and height that the file states, or None.
    """

    item: Item
    species: str
    family: str
    points: Float[np.ndarray, "parts 2"]
    flags: Int[np.ndarray, "parts"]
    box: Box
    stated: tuple[Any, Any] | None = None


def shared_parts(source: Animal, target: Animal) -> Int[np.ndarray, "k"]:
    """Return the parts that are annotated in both animals, in ascending order."""
    return np.flatnonzero((source.flags > 0) & (target.flags > 0))


def pair_of(name: str, source: Animal, target: Animal, category: str) -> Pair:
    """Return the pair of two animals, with the keypoints that are annotated in both."""
    parts = shared_parts(source, target)
    points = [animal.points[parts] for animal in (source, target)]
    return Pair(name, source.item, target.item, category, points[0], points[1], parts, source.box, target.box)
