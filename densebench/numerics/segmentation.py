"""Segmentation metrics from one confusion matrix: IoU in the variants that the literature mixes up, and how sure we are.

A confusion matrix counts pixels in int64: `confusion[truth, prediction]`. Everything else follows from it. The variants:

- identity: class c of the prediction is class c of the truth. Retrieval and heads are supervised, so this is the headline.
- Hungarian: predicted classes are renamed, one to one, so that the sum of IoU is greatest (Kuhn 1955). Some public code reports
  this for supervised retrieval too, which can only raise a low score.
- a class is absent when it is in neither truth nor prediction. `absent="skip"` leaves it out of the mean (as MMSegmentation
  does), `absent="zero"` counts it as 0 (as Leopart and open-hummingbird do).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Absent = Literal["skip", "zero"]
DRAWS = 100  # of a bootstrap that are held at once


def confusion_matrix(
    prediction: UInt8[Tensor, "*shape"], truth: UInt8[Tensor, "*shape"], classes: int, ignore_index: int = 255
) -> Int[Tensor, "classes classes"]:
    """Count pixels by (truth, prediction), int64.

    Pixels whose truth is `ignore_index` are left out. A prediction of `ignore_index` where the truth is a class is a miss:
    the caller passes `classes + 1` if it wants to keep those.
    Raises ValueError where a truth or a prediction is not a class.
    """
    counted = truth != ignore_index
    t, p = truth[counted].to(torch.int32), prediction[counted].to(torch.int32)
    if t.numel() and (int(t.max()) >= classes or int(p.max()) >= classes):
        raise ValueError(f"a label is {max(int(t.max()), int(p.max()))}, above the last class {classes - 1}")
    pairs = t * classes + p
    if pairs.is_cuda:
        counts = torch.bincount(pairs, minlength=classes * classes)
    else:  # several times faster than torch's on a CPU
        counts = torch.from_numpy(np.bincount(pairs.numpy(), minlength=classes * classes)).to(torch.int64)
    return counts.view(classes, classes)


def tallies(confusion: Int[Tensor, "*n c c"]) -> Int[Tensor, "*n 3 c"]:
    """Per class: pixels that agree, pixels of the truth, pixels of the prediction. IoU needs no more."""
    return torch.stack([confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)], dim=-2)


def iou(tally: Integer[Tensor, "*n 3 c"] | Float[Tensor, "*n 3 c"]) -> Float[Tensor, "*n c"]:
    """Intersection over union of each class in 0..1; NaN for a class in neither truth nor prediction."""
    agree, truth, prediction = tally.double().unbind(-2)
    return agree / (truth + prediction - agree)


def mean_iou(ious: Float[Tensor, "*n c"], absent: Absent = "skip") -> Float[Tensor, "*n"]:
    """The mean over classes, absent ones (NaN) left out or counted as 0; NaN where every class is left out."""
    return ious.nan_to_num(0.0).mean(-1) if absent == "zero" else ious.nanmean(-1)


def pixel_accuracy(confusion: Int[Tensor, "c c"]) -> float:
    """The share of counted pixels whose class is right, 0..1."""
    return float(confusion.diagonal().sum() / confusion.sum())


def iou_matrix(confusion: Int[Tensor, "t p"]) -> Float[Tensor, "t p"]:
    """IoU of every class of the truth with every class of the prediction; 0 where both are empty."""
    counts = confusion.double()
    union = counts.sum(1, keepdim=True) + counts.sum(0, keepdim=True) - counts
    return counts / union.clamp(min=1)


def hungarian(confusion: Int[Tensor, "c c"]) -> Int[Tensor, "c"]:
    """The one-to-one renaming of predicted classes with the greatest sum of IoU: `renamed[prediction] = truth`."""
    truth, prediction = linear_sum_assignment(iou_matrix(confusion).cpu().numpy(), maximize=True)
    renamed = torch.empty(len(prediction), dtype=torch.int64)
    renamed[torch.from_numpy(prediction)] = torch.from_numpy(truth)
    return renamed


def rename(confusion: Int[Tensor, "c c"], renamed: Int[Tensor, "c"]) -> Int[Tensor, "c c"]:
    """The confusion matrix after predicted classes are renamed one to one."""
    result = torch.empty_like(confusion)
    result[:, renamed] = confusion
    return result


def bootstrap_mean_iou(
    tally: Int[Tensor, "n 3 c"], absent: Absent = "skip", resamples: int = 1000, seed: int = 0
) -> Float[Tensor, "resamples"]:
    """Mean IoU of the whole set for `resamples` draws of its n images with replacement (percentile bootstrap, Efron 1979).

    The draws depend on n and the seed alone. So two backbones scored on the same images share them, and the differences of
    their values, draw by draw, are a paired bootstrap.
    """
    weighted = _resampled(tally.double().flatten(1).cpu(), resamples, seed)
    return mean_iou(iou(weighted.view(resamples, *tally.shape[1:])), absent)


def bootstrap_mean(values: Float[Tensor, "n"], resamples: int = 1000, seed: int = 0) -> Float[Tensor, "resamples"]:
    """The mean of one value an image, such as whether it is right, for the same draws as `bootstrap_mean_iou`."""
    return _resampled(values.double().cpu()[:, None], resamples, seed)[:, 0] / len(values)


def _resampled(rows: Float[Tensor, "images m"], resamples: int, seed: int) -> Float[Tensor, "resamples m"]:
    """The sums of the rows that each draw takes; a few draws at a time, so that memory does not grow with both."""
    images = len(rows)
    generator, shares = np.random.Generator(np.random.PCG64(seed)), np.full(images, 1 / images)
    parts = [min(DRAWS, resamples - start) for start in range(0, resamples, DRAWS)]
    return torch.cat([torch.from_numpy(generator.multinomial(images, shares, size=part)).double() @ rows for part in parts])


def interval(values: Float[Tensor, "n"], level: float = 0.95) -> tuple[float, float]:
    """The central interval that holds `level` of the values; values that are NaN (nothing to score) are left out."""
    kept = values[~values.isnan()].numpy()
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
