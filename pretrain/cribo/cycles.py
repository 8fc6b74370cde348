"""Cycle consistency: a match holds where the way back from it leads to the object that it started from.

Source: CrIBo (Lebailly et al., ICLR 2024), section 3.2.2, equations 3 and 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from densebench.processes import gather
from densebench.training.objective import StepContext

TILE_BYTES = 128 * 2**20  # most bytes of an array of similarities


def closed_cycles(
    jumped: Float[Tensor, "b k d"],
    objects: Float[Tensor, "b k d"],
    valid: Bool[Tensor, "b k"],
    scope: str,
    group: int,
    context: StepContext,
) -> Bool[Tensor, "b k"]:
    """Return which matches are cycle-consistent: among a group of images, or among the images of all processes.

    jumped, objects, valid: as in `cycle_consistent`. scope: "group" or "batch". group: number of images (0: all of this process).
    """
    if scope == "group":
        return cycle_consistent(jumped, objects, valid, group)
    if context.world == 1:
        return cycle_consistent(jumped, objects, valid)
    return cycle_closes(jumped, gather(objects), gather(valid), context.first(len(valid)))


def cycle_consistent(
    jumped: Float[Tensor, "b k d"],
    objects: Float[Tensor, "b k d"],
    valid: Bool[Tensor, "b k"],
    group: int = 0,
) -> Bool[Tensor, "b k"]:
    """Return which matches are cycle-consistent (equation 4), within each group of images (0: all images are one group).

    jumped: for each object of one view, the vector of its match in the other view. objects: the batch's objects in that other
    view. A match is cycle-consistent where, among all valid objects of the group, the one most similar to `jumped` is the object
    itself.
    """
    size = group or len(valid)
    groups = zip(jumped.split(size), objects.split(size), valid.split(size), strict=True)
    return torch.cat([cycle_closes(*parts) for parts in groups])


def cycle_closes(
    jumped: Float[Tensor, "b k d"], objects: Float[Tensor, "all k d"], valid: Bool[Tensor, "all k"], first: int = 0
) -> Bool[Tensor, "b k"]:
    """Return which matches are cycle-consistent, for images `first` .. `first + b - 1` of the group of images in `objects`.

    jumped, objects, valid: as in `cycle_consistent`. Ties go to the first object.
    """
    b, k, _ = jumped.shape
    keys, held = F.normalize(objects.float(), dim=2).flatten(0, 1), valid.flatten()
    back = F.normalize(jumped.float(), dim=2).flatten(0, 1)
    nearest = [
        (rows @ keys.T).masked_fill(~held, -torch.inf).argmax(dim=1) for rows in back.split(max(1, TILE_BYTES // (4 * len(keys))))
    ]
    itself = first * k + torch.arange(b * k, device=keys.device)
    return (torch.cat(nearest) == itself).view(b, k) & valid[first : first + b]
