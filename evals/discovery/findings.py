"""From the half of a picture that holds the seed to one object: its connected part, its box, and graphs that show no object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from densebench.evals.discovery.views import Patches

DENSEST = 0.98  # above this share of joined pairs a graph has no structure to be cut
LEAST_GAP = 1e-8  # eigenvalues as near as this are one: their vectors may be mixed as one likes
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in px of the original picture; right and bottom are exclusive."""


@dataclass(frozen=True)
class Finding:
    """What was found in a picture.

    box: None where nothing was. mask: of patches. flaw: why the graph shows no object, "" where it does. density: the share of
    pairs of patches that an edge joins. eigengap: of TokenCut, see `Cut`; None for LOST. drawn: what decided, a number a patch
    (TokenCut's vector, LOST's degrees), for pictures alone.
    """

    box: Box | None
    mask: Bool[np.ndarray, "rows columns"]
    flaw: str
    density: float
    eigengap: float | None = None
    drawn: Float[np.ndarray, "rows columns"] | None = None


def component(mask: Bool[np.ndarray, "rows columns"], seed: int) -> Bool[np.ndarray, "rows columns"]:
    """Return the part of a mask that holds the seed; patches are connected with their four neighbours.

    It is empty where the seed lies outside of the mask. seed: numbered row by row.
    """
    parts, _ = ndimage.label(mask)
    own = parts.flat[seed]
    return (parts == own) & (own > 0)


def box_of(mask: Bool[np.ndarray, "rows columns"], patches: Patches) -> Box | None:
    """Return the smallest box around a mask, cut off where the picture ends; None for an empty mask."""
    if not mask.any():
        return None
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    left, right = patches.across * columns[0], patches.across * (columns[-1] + 1)
    top, bottom = patches.down * rows[0], patches.down * (rows[-1] + 1)
    return float(left), float(top), float(min(right, patches.width)), float(min(bottom, patches.height))


def flaw_of(mask: Bool[np.ndarray, "rows columns"], density: float, eigengap: float | None = None) -> str:
    """Return why a graph shows no object; "" where it shows one. mask: the connected part that holds the seed."""
    if mask.size < 2:
        return "one patch"
    if density > DENSEST:
        return "nearly all patches alike"
    if density == 0:
        return "no two patches alike"
    if mask.all():
        return "whole picture"
    if not mask.any():
        return "no object"
    return "several equal cuts" if eigengap is not None and eigengap < LEAST_GAP else ""


def found(
    mask: Bool[np.ndarray, "rows columns"], seed: int, density: float, eigengap: float | None, patches: Patches, miss: bool
) -> Finding:
    """Return the object that holds the seed. miss: whether a degenerate graph counts as nothing found."""
    part = component(mask, seed)
    flaw = flaw_of(part, density, eigengap)
    part = part & (not (flaw and miss))
    return Finding(box_of(part, patches), part, flaw, density, eigengap)


def without_graph(patches: Patches, miss: bool) -> Finding:
    """Return the finding of a picture of one patch or none, which has no pairs: the whole picture, or nothing."""
    mask = np.full((patches.rows, patches.columns), not miss)
    return Finding(box_of(mask, patches), mask, "one patch", 0.0)
