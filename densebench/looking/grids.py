"""Features of all patches, small enough to lie inside a page, so that a browser computes the cosine of any two patches."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int8

STEP = 1 / 64
"""Of the rounded numbers; the longest feature has length 1, so that they lie in -64..64."""
USUAL, LARGEST = 0.02, 0.1
"""Dimensions are added until 99 of 100 cosines, and all, are this near to the exact ones, or until the limit."""
DIMS = (8, 16, 24, 32, 48, 64, 96, 128)
PAIRED = 1024  # patches that are compared with each other to measure the error
FITTED = 4096  # patches that the subspace is fitted to


@dataclass(frozen=True)
class CosineError:
    """How far cosines in the page lie from the exact ones: of 99 of 100 pairs of patches, and the largest of `pairs` pairs."""

    usual: float
    largest: float
    pairs: int


@dataclass(frozen=True)
class Packed:
    """The patches of one backbone: `content` is deflated int8, for each picture in turn [dims gh gw], in units of STEP.

    The cosine of two different patches is the dot product of their numbers, times STEP squared.
    """

    dims: int
    sizes: tuple[tuple[int, int], ...]
    content: bytes
    error: CosineError


def packed(grids: Sequence[Float[np.ndarray, "gh gw d"]], limit: int = 96) -> Packed:
    """Return the features of a backbone's pictures as few rounded numbers, at most `limit` a patch, and the error of cosines.

    Features are scaled to length 1 and projected, not centred, to the subspace that keeps most of their squared length; what
    lies outside adds little to the dot product of two patches, so that it is left as it stands and not scaled up.
    """
    tokens = np.concatenate([_unit(grid) for grid in grids])
    axes = _axes(tokens, limit)
    counts = [count for count in DIMS if count < axes.shape[1]] + [axes.shape[1]]
    sample = tokens[_even(len(tokens), PAIRED)]
    others = ~np.eye(len(sample), dtype=bool)
    exact = (sample @ sample.T)[others]
    for count in counts:
        rounded = _rounded(sample @ axes[:, :count]).astype(np.float32) * STEP
        distance = np.abs((rounded @ rounded.T)[others] - exact)
        usual = float(np.quantile(distance, 0.99)) if distance.size else 0.0
        largest = float(distance.max(initial=0.0))
        if usual <= USUAL and largest <= LARGEST:
            break
    planes = [_rounded(_unit(grid) @ axes[:, :count]).T.tobytes() for grid in grids]
    error = CosineError(usual, largest, distance.size // 2)
    return Packed(count, tuple((grid.shape[0], grid.shape[1]) for grid in grids), zlib.compress(b"".join(planes), 9), error)


def unpacked(found: Packed) -> list[Int8[np.ndarray, "dims gh gw"]]:
    """Return the rounded numbers of each picture."""
    numbers = np.frombuffer(zlib.decompress(found.content), np.int8)
    ends = np.cumsum([found.dims * rows * columns for rows, columns in found.sizes])
    parts = np.split(numbers, ends[:-1])
    return [part.reshape(found.dims, *size) for part, size in zip(parts, found.sizes, strict=True)]


def cosines(grid: Float[np.ndarray, "gh gw d"], row: int, column: int) -> Float[np.ndarray, "gh gw"]:
    """Return the exact cosines of one patch with every patch of its picture."""
    unit = _unit(grid)
    return np.clip(unit @ unit[row * grid.shape[1] + column], -1, 1).reshape(grid.shape[:2])


def _unit(grid: np.ndarray) -> np.ndarray:
    tokens = np.nan_to_num(grid.reshape(-1, grid.shape[-1]).astype(np.float32), posinf=0.0, neginf=0.0)
    length = np.linalg.norm(tokens, axis=1, keepdims=True)
    return tokens / np.where(length > 0, length, 1)


def _axes(tokens: np.ndarray, limit: int) -> np.ndarray:
    sample = tokens[_even(len(tokens), FITTED)].astype(np.float64)
    width = tokens.shape[1]
    first = max(0, width - limit)
    _, axes = scipy.linalg.eigh(sample.T @ sample, subset_by_index=[first, width - 1])
    return axes[:, ::-1].astype(np.float32)


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.round(values / STEP).astype(np.int8)


def _even(count: int, wanted: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(int)
