"""Greedy non-maximum suppression in plain torch, for machines where torchvision's compiled one cannot load.

Source: the CPU kernel of torchvision, whose results these are, ties and degenerate boxes included.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 1024  # boxes whose overlaps are known at once; bounds the memory and changes nothing else


@torch.no_grad()
def suppress(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], threshold: float) -> Int[Tensor, "kept"]:
    """The boxes (left, top, right, bottom) that no better one covers, best first.

    A box goes where its IoU with a kept box before it is above the threshold; equal to it, it stays. Of equal scores the first
    comes first. Boxes without an area overlap nothing, not even their like.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order] if boxes.dtype in (torch.float32, torch.float64) else boxes[order].float()
    areas = (ranked[:, 2] - ranked[:, 0]) * (ranked[:, 3] - ranked[:, 1])
    gone = np.zeros(len(ranked), dtype=bool)
    for start in range(0, len(ranked), BLOCK):
        covered = _covered(ranked, areas, start, threshold).cpu().numpy()
        for row, own in enumerate(covered):
            if not gone[start + row]:
                gone[start + row + 1 :] |= own[row + 1 :]
    return order[torch.from_numpy(~gone).to(order.device)]


def _covered(ranked: Tensor, areas: Tensor, start: int, threshold: float) -> Tensor:
    """Whether each box from `start` on has an IoU above the threshold with each of the block that begins there: [block, rest]."""
    some, rest = ranked[start : start + BLOCK, :, None], ranked[start:].T
    width = torch.minimum(some[:, 2], rest[2]).sub_(torch.maximum(some[:, 0], rest[0])).clamp_(min=0)
    height = torch.minimum(some[:, 3], rest[3]).sub_(torch.maximum(some[:, 1], rest[1])).clamp_(min=0)
    inside = width.mul_(height)
    overlap = inside / (areas[start : start + BLOCK, None] + areas[start:] - inside)
    return overlap > _at_most(threshold, overlap.dtype)


def _at_most(threshold: float, dtype: torch.dtype) -> float:
    """The greatest number of a dtype that is no greater: above it is above the threshold in double, as the kernel asks."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    near = kind(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, kind(-np.inf)))
