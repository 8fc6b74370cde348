"""The weights of objects in a loss: means over the objects of a group of images (one GPU of the reference), then over groups."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def shares(mask: Tensor, group: int) -> Tensor:
    """For each object `[b k]` its weight in a mean over the objects of its group of images, and then over groups; 0 if
    not in the mask."""
    counts, number = counts_of(mask, group)
    return mask / counts.clamp(min=1)[:, None] / number


def first_direction(masks: Tensor, group: int) -> Tensor:
    """What the official code divides both directions by: the matches of the first, `[b 1]`; 0 where there are none."""
    counts, number = counts_of(masks[0], group)
    return ((counts > 0) / counts.clamp(min=1) / number)[:, None]


def counts_of(mask: Tensor, group: int) -> tuple[Tensor, int]:
    """For each image the objects in its group of images, `[b]`, and the number of groups."""
    size = min(group or len(mask), len(mask))
    per_image = F.pad(mask.sum(dim=1), (0, -len(mask) % size)).view(-1, size)
    counts = per_image.sum(dim=1)
    return counts.repeat_interleave(size)[: len(mask)], len(counts)
