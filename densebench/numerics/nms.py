"""Greedy non-maximum suppression in plain torch, for machines where torchvision's compiled one cannot load.

Source: the CPU kernel of torchvision. The results equal its own, ties and degenerate boxes included.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy, one_late

BLOCK = 1024  # boxes whose overlaps are computed at once; it bounds the memory and changes no result


@torch.no_grad()
def suppress(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], threshold: float) -> Int[Tensor, "kept"]:
    """Return the indices of the boxes (left, top, right, bottom) without a better kept box of IoU above `threshold`, best first.

    Plainly, with boxes by descending score, and in their given order where scores are equal:

        kept = []
        for box in boxes:
            if all(iou(box, other) <= threshold for other in kept):
                kept.append(box)

    Boxes without an area overlap nothing, not even one another.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order] if boxes.dtype in (torch.float32, torch.float64) else boxes[order].float()
    areas = (ranked[:, 2] - ranked[:, 0]) * (ranked[:, 3] - ranked[:, 1])
    covered = np.zeros(len(ranked), dtype=bool)
    blocks = ((start, HostCopy(_overlapping(ranked, areas, start, threshold))) for start in range(0, len(ranked), BLOCK))
    for start, overlapping in one_late(blocks, order.device):
        for row, others in enumerate(overlapping.value().numpy()):
            if not covered[start + row]:
                covered[start + row + 1 :] |= others[row + 1 :]
    return order[on_device(torch.from_numpy(np.flatnonzero(~covered)), order.device)]


def _overlapping(ranked: Tensor, areas: Tensor, start: int, threshold: float) -> Tensor:
    """Return which boxes of the block at `start` have an IoU above the threshold with those from there on: [block, rest]."""
    some, rest = ranked[start : start + BLOCK, :, None], ranked[start:].T
    width = torch.minimum(some[:, 2], rest[2]).sub_(torch.maximum(some[:, 0], rest[0])).clamp_(min=0)
    height = torch.minimum(some[:, 3], rest[3]).sub_(torch.maximum(some[:, 1], rest[1])).clamp_(min=0)
    inside = width.mul_(height)
    overlap = inside / (areas[start : start + BLOCK, None] + areas[start:] - inside)
    return overlap > _at_most(threshold, overlap.dtype)


def _at_most(threshold: float, dtype: torch.dtype) -> float:
    """Return the greatest number of a dtype that is at most the threshold: comparing in float64 gives the same result."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    near = kind(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, kind(-np.inf)))
