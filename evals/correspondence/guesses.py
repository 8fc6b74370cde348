"""Guesses that need no features: what a score must exceed before it says anything of a backbone.

Pairs of benchmarks have like poses, so that the source's own place is a strong guess; "better than random" does not show that
features work.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from densebench.datasets.keypoints import Pair
from densebench.evals.correspondence.geometry import Points

SAME, CENTRE, RANDOM = "same place", "box centre", "random patch"
GUESSES = (SAME, CENTRE, RANDOM)


def same_place(pair: Pair, source: tuple[int, int], target: tuple[int, int]) -> Points:
    """Return the source's keypoints at the same relative place of the target. source, target: widths and heights, px."""
    return pair.source_points * (np.array(target) / np.array(source))


def box_centre(pair: Pair, target: tuple[int, int]) -> Points:
    """Return the centre of the target's box for each keypoint; that of the picture where there is no box."""
    left, top, right, bottom = pair.target_box or (0.0, 0.0, *map(float, target))
    return np.tile([(left + right) / 2, (top + bottom) / 2], (len(pair.source_points), 1))


def chances(distances: Float[np.ndarray, "k n"], limits: Float[np.ndarray, "a"], strict: bool) -> Float[np.ndarray, "a k"]:
    """Return how likely a patch drawn at random is right, for each limit and keypoint; all n patches are equally likely."""
    return np.stack([hits(distances, limit, strict).mean(1) for limit in limits])


def hits(distances: Float[np.ndarray, "*many"], limit: float, strict: bool) -> np.ndarray:
    """Return which distances are right: below the limit, or (not strict) at most the limit."""
    right: np.ndarray = distances < limit if strict else distances <= limit
    return right
