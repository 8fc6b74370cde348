"""The numbers of robustness: means over levels, then over corruptions, and the share of the clean score that they are.

Every estimate carries its bootstrap over images, and all share their draws: a ratio of two of them is a paired bootstrap, in
which what an image adds to both cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.numerics.bootstrap import bootstrap_mean_iou
from densebench.numerics.segmentation import Absent, iou, mean_iou


@dataclass(frozen=True)
class Estimate:
    """A score in %, its values for resampled sets of images, and its parts by class (NaN for a class that is nowhere)."""

    value: float
    draws: Float[Tensor, "resamples"]
    classes: Float[Tensor, "c"]


def mean_iou_of(tally: Int[Tensor, "n 3 c"], absent: Absent, resamples: int = 1000) -> Estimate:
    """Return the mean IoU of n images together, from their `segmentation.tallies`."""
    ious = 100 * iou(tally.sum(0))
    return Estimate(float(mean_iou(ious, absent)), 100 * bootstrap_mean_iou(tally, absent, resamples), ious)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates of the same images; of each class, over those that have it."""
    values = [each.value for each in estimates]
    draws = torch.stack([each.draws for each in estimates]).mean(0)
    return Estimate(sum(values) / len(values), draws, torch.stack([each.classes for each in estimates]).nanmean(0))


def retention(clean: Estimate, corrupted: Estimate) -> Estimate | None:
    """Return the share of the clean score that is left, in %; None where the clean score is 0, since then there is no share."""
    if not clean.value > 0:
        return None
    return Estimate(
        100 * corrupted.value / clean.value,
        100 * corrupted.draws / clean.draws.where(clean.draws > 0, torch.nan),
        100 * corrupted.classes / clean.classes.where(clean.classes > 0, torch.nan),
    )


def mean_corruption_error(errors: Float[Tensor, "types levels"], reference: Float[Tensor, "types levels"]) -> Float[Tensor, ""]:
    """Return mCE (Hendrycks and Dietterich): of each corruption the errors over those of a reference model, then the mean.

    Errors are 1 - score; sums are over levels. It depends on who the reference is, so no headline uses it.
    """
    return (errors.sum(1) / reference.sum(1)).mean()
