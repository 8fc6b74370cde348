"""J and F of masks in videos, and their statistics, as the official evaluation of DAVIS computes them (semi-supervised task).

Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation, CVPR 2016; Pont-Tuset et al., The
2017 DAVIS Challenge on Video Object Segmentation, 2017; Martin et al., Learning to Detect Natural Image Boundaries, PAMI 2004
(boundary maps). What the official code does and the papers do not say:

- the first frame (it is given) and the last one are not scored;
- the objects of a sequence are numbered up to the greatest id in its first mask; an id in between that never appears counts too;
- void is background in the truth and is not left out of the prediction;
- means are over all objects of all sequences alike, not over sequences.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import cKDTree

TOLERANCE = 0.008  # of the diagonal
BINS = 4


class Statistics(NamedTuple):
    """Statistics of one object's J or F: the mean, the share of frames above 0.5, the fall from the first quarter to the last."""

    mean: float
    recall: float
    decay: float


def jaccard(prediction: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """Return region similarity J, 0..1: intersection over union; 1 where both are empty."""
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0


def boundary_map(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels that differ from their right, lower or lower right neighbour.

    In the last row only the right neighbour counts, in the last column only the lower one; the last pixel is no boundary.
    """
    differs = np.zeros_like(mask)
    right, below = mask[:, :-1] != mask[:, 1:], mask[:-1] != mask[1:]
    differs[:, :-1] = right
    differs[:-1] |= below
    differs[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return differs


def boundary_f(prediction: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], tolerance: float = TOLERANCE) -> float:
    """Return contour accuracy F, 0..1: the harmonic mean of precision and recall of boundary pixels.

    A boundary pixel counts where the other boundary has one within ceil(`tolerance` x diagonal) pixels. F is 1 where neither mask
    has a boundary, and 0 where only one has.
    """
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    predicted, true = (np.argwhere(boundary_map(mask)) for mask in (prediction, truth))
    if not len(predicted) or not len(true):
        return float(len(predicted) == len(true))
    precision, recall = _near(predicted, true, radius), _near(true, predicted, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(points: Int[np.ndarray, "n 2"], others: Int[np.ndarray, "m 2"], radius: int) -> float:
    """Return the share of points with another one within the radius; distances of whole numbers are exact."""
    distances, _ = cKDTree(others).query(points, distance_upper_bound=radius + 0.5)
    return float((distances <= radius).mean())


def object_scores(
    prediction: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], objects: int
) -> Float[np.ndarray, "objects 2"]:
    """Return J and F of each object in one frame. An object that is in neither map scores 1, one that is in only one map 0."""
    masks = [(prediction == number, truth == number) for number in range(1, objects + 1)]
    return np.array([(jaccard(predicted, true), boundary_f(predicted, true)) for predicted, true in masks])


def statistics(values: Float[np.ndarray, "frames"]) -> Statistics:
    """Return mean, recall and decay over the scored frames of a sequence (at least one), in order; NaN is left out of means.

    Decay is the mean of the first of four bins less that of the last; neighbouring bins share their edge. A NaN counts as a
    frame that is not above a half. (The official bin edges are 8-bit numbers; up to 255 frames these are the same.)
    """
    edges = (np.round(np.linspace(1, len(values), BINS + 1) + 1e-10) - 1).astype(int)
    first, last = values[edges[0] : edges[1] + 1], values[edges[-2] : edges[-1] + 1]
    return Statistics(_mean(values), float((values > 0.5).mean()), _mean(first) - _mean(last))


def _mean(values: Float[np.ndarray, "n"]) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
