"""Where the patches of a picture are in its warped picture, and which of them are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.numerics.homographies import apply, measures


@dataclass(frozen=True, eq=False)
class Truth:
    """Where patches are. centres: x, y in px of all patches; queries: the indices of those that are asked for; places: where the
    centre of each query is in the warped picture; measures: rotation, scale and tilt of the homography."""

    centres: Float[Tensor, "patches 2"]
    queries: Int[Tensor, "n"]
    places: Float[Tensor, "n 2"]
    measures: tuple[float, float, float]


def truth_of(homography: Float[np.ndarray, "3 3"], shape: tuple[int, int], stride: int) -> Truth:
    """Return the truth of a picture of this height and width; queries are the patches that stay inside as a whole."""
    centres = patch_centres(shape, stride)
    places = apply(homography, centres)
    inside = stays_inside(homography, centres, shape, stride)
    queries = torch.from_numpy(np.flatnonzero(inside))
    return Truth(torch.from_numpy(centres), queries, torch.from_numpy(places[inside]), measures(homography, *shape))


def patch_centres(shape: tuple[int, int], stride: int) -> Float[np.ndarray, "patches 2"]:
    """Return the centres x, y of the patches of a picture of this height and width, row by row: the first is at stride / 2."""
    y, x = np.mgrid[0 : shape[0] // stride, 0 : shape[1] // stride]
    return stride * (np.stack([x.ravel(), y.ravel()], 1) + 0.5)


def stays_inside(
    homography: Float[np.ndarray, "3 3"], centres: Float[np.ndarray, "patches 2"], shape: tuple[int, int], stride: int
) -> Bool[np.ndarray, "patches"]:
    """Return which patches lie in the warped picture with all four corners, to a thousandth of a px."""
    inside = np.ones(len(centres), bool)
    for corner in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        moved = apply(homography, centres + stride / 2 * np.array(corner))
        inside &= ((moved >= -1e-3) & (moved <= np.array(shape[::-1]) + 1e-3)).all(1)
    return inside
