"""From clusters to classes: one-to-one and many-to-one matchings, all from one confusion matrix."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from densebench.numerics.segmentation import iou_matrix

Criterion = Literal["precision", "iou"]
UNMATCHED = -1


def one_to_one(confusion: Int[Tensor, "c k"]) -> Int[Tensor, "k"]:
    """Hungarian matching (Kuhn 1955): the class of every cluster, so that the sum of IoU is greatest; -1 for one without.

    `confusion[class, cluster]` counts pixels. With fewer clusters than classes some classes get none.
    """
    classes, clusters = linear_sum_assignment(iou_matrix(confusion).cpu().numpy(), maximize=True)
    found = torch.full((confusion.shape[1],), UNMATCHED, dtype=torch.int64)
    found[torch.from_numpy(clusters)] = torch.from_numpy(classes)
    return found


def many_to_one(confusion: Int[Tensor, "c k"], by: Criterion = "precision") -> Int[Tensor, "k"]:
    """Every cluster takes the class with the greatest precision (its most frequent one) or IoU; of equals the first class.

    A cluster without a counted pixel takes class 0, as the first of equals: it changes no count.
    """
    values = confusion if by == "precision" else iou_matrix(confusion)
    return values.argmax(dim=0).cpu()


def merged(confusion: Int[Tensor, "c k"], matching: Int[Tensor, "k"], unmatched: int = 0) -> Int[Tensor, "c c"]:
    """The confusion matrix of classes once every cluster is called by its class; those without one are called `unmatched`."""
    target = torch.where(matching == UNMATCHED, unmatched, matching).to(confusion.device)
    result = confusion.new_zeros(confusion.shape[0], confusion.shape[0])
    return result.index_add_(1, target, confusion)
