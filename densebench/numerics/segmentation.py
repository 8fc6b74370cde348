"""Segmentation metrics from one confusion matrix: IoU in the variants that the literature mixes up, and matchings of clusters.

A confusion matrix counts pixels in int64: `confusion[truth, prediction]`, or `confusion[class, cluster]`. Everything else follows
from it. The variants:

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
Criterion = Literal["precision", "iou"]
UNMATCHED = -1
PIXELS = 2**23  # counted at once on a GPU: bounds the memory and changes no result


def confusion_matrix(
    prediction: UInt8[Tensor, "*shape"], truth: UInt8[Tensor, "*shape"], classes: int, ignore_index: int = 255
) -> Int[Tensor, "classes classes"]:
    """Return the number of pixels by (truth, prediction), int64.

    Pixels whose truth is `ignore_index` are left out. Raises ValueError where a truth or a prediction among the others is not a
    class, `ignore_index` included.
    """
    return confusion_matrices(counted_pairs(prediction[None], truth, classes, ignore_index), classes)[0]


def counted_pairs(
    predictions: UInt8[Tensor, "n *shape"], truth: UInt8[Tensor, "*shape"], classes: int, ignore_index: int = 255
) -> Int[Tensor, "n entries"]:
    """Return, for each of n label maps of one image, the entries of its confusion matrix, and the largest label that was counted.

    A row is the matrix, flattened, then the largest label, or -1 where every pixel is left out. `confusion_matrices` checks that
    label, so that the host need not wait for a GPU until the counts of many images are copied together.
    """
    count = scattered_pairs if predictions.is_cuda else binned_pairs
    return count(predictions, truth, classes, ignore_index)


def confusion_matrices(counts: Int[Tensor, "*n entries"], classes: int) -> Int[Tensor, "*n classes classes"]:
    """Return the confusion matrices that rows of `counted_pairs` hold. Raises ValueError where a counted label is not a class."""
    largest = int(counts[..., -1].max())
    if largest >= classes:
        raise ValueError(f"a label is {largest}, above the last class {classes - 1}")
    return counts[..., :-1].unflatten(-1, (classes, classes))


def binned_pairs(
    predictions: UInt8[Tensor, "n *shape"], truth: UInt8[Tensor, "*shape"], classes: int, ignore_index: int
) -> Int[Tensor, "n entries"]:
    """Return the rows of `counted_pairs` by numpy's `bincount`, several times faster than torch's on a CPU."""
    counted = truth != ignore_index
    of_truth = truth[counted]
    first, highest = of_truth.to(torch.int32) * classes, int(of_truth.max()) if len(of_truth) else -1
    result = np.zeros((len(predictions), classes**2 + 1), dtype=np.int64)
    for row, prediction in zip(result, predictions, strict=True):
        second = prediction[counted]
        row[-1] = largest = max(highest, int(second.max())) if len(second) else -1
        if largest < classes:
            row[:-1] = np.bincount((first + second).numpy(), minlength=classes**2)
    return torch.from_numpy(result)


def scattered_pairs(
    predictions: UInt8[Tensor, "n *shape"], truth: UInt8[Tensor, "*shape"], classes: int, ignore_index: int
) -> Int[Tensor, "n entries"]:
    """Return the rows of `counted_pairs` by `scatter_add_`, without a wait for the device.

    A pixel that is left out, or whose label is not a class, is counted in the last entry, which is then overwritten.
    """
    result = torch.zeros(len(predictions), classes**2 + 1, dtype=torch.int64, device=truth.device)
    result[:, -1] = -1
    first, one = truth.flatten().to(torch.int32), torch.ones((), dtype=torch.int64, device=truth.device)
    together = max(1, PIXELS // max(1, len(first)))
    for rows, some in zip(result.split(together), predictions.flatten(1).split(together), strict=True):
        if not len(first):
            break
        second = some.to(torch.int32)
        largest = torch.maximum(first, second).masked_fill(first == ignore_index, -1)
        known = (largest >= 0) & (largest < classes)
        pairs = torch.where(known, first * classes + second, classes**2).long()
        rows.scatter_add_(1, pairs, one.expand_as(pairs))
        rows[:, -1] = largest.amax(1)
    return result


def tallies(confusion: Int[Tensor, "*n c c"]) -> Int[Tensor, "*n 3 c"]:
    """Return, for each class, pixels that agree, pixels of the truth, pixels of the prediction. IoU needs no more."""
    return torch.stack([confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)], dim=-2)


def iou(tally: Integer[Tensor, "*n 3 c"] | Float[Tensor, "*n 3 c"]) -> Float[Tensor, "*n c"]:
    """Return intersection over union of each class in 0..1; NaN for a class in neither truth nor prediction."""
    agree, truth, prediction = tally.double().unbind(-2)
    return agree / (truth + prediction - agree)


def mean_iou(ious: Float[Tensor, "*n c"], absent: Absent = "skip") -> Float[Tensor, "*n"]:
    """Return the mean over classes, absent ones (NaN) left out or counted as 0; NaN where every class is left out."""
    return ious.nan_to_num(0.0).mean(-1) if absent == "zero" else ious.nanmean(-1)


def pixel_accuracy(confusion: Int[Tensor, "c c"]) -> float:
    """Return the share of counted pixels whose class is right, 0..1."""
    return float(confusion.diagonal().sum() / confusion.sum())


def iou_matrix(confusion: Int[Tensor, "c k"]) -> Float[Tensor, "c k"]:
    """Return the IoU of every class with every cluster or predicted class; 0 where both are empty."""
    counts = confusion.double()
    union = counts.sum(1, keepdim=True) + counts.sum(0, keepdim=True) - counts
    return counts / union.clamp(min=1)


def hungarian(confusion: Int[Tensor, "c k"]) -> Int[Tensor, "k"]:
    """Return the class of every cluster (or predicted class) by the one-to-one matching with the greatest sum of IoU (Kuhn 1955).

    With fewer classes than clusters some clusters get none: UNMATCHED.
    """
    classes, clusters = linear_sum_assignment(iou_matrix(confusion).cpu().numpy(), maximize=True)
    matching = torch.full((confusion.shape[1],), UNMATCHED, dtype=torch.int64)
    matching[torch.from_numpy(clusters)] = torch.from_numpy(classes)
    return matching


def many_to_one(confusion: Int[Tensor, "c k"], by: Criterion = "precision") -> Int[Tensor, "k"]:
    """Return, for every cluster, the class with the greatest precision (its most frequent one) or IoU; of equals the first class.

    A cluster without a counted pixel takes class 0, as the first of equals: it changes no count.
    """
    values = confusion if by == "precision" else iou_matrix(confusion)
    return values.argmax(dim=0).cpu()


def merged(confusion: Int[Tensor, "c k"], matching: Int[Tensor, "k"], unmatched: int = 0) -> Int[Tensor, "c c"]:
    """Return the confusion matrix of classes once every cluster counts as its class; one without counts as `unmatched`."""
    target = torch.where(matching == UNMATCHED, unmatched, matching).to(confusion.device)
    result = confusion.new_zeros(confusion.shape[0], confusion.shape[0])
    return result.index_add_(1, target, confusion)
