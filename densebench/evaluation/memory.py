"""The memory bank of in-context retrieval: patch labels, which patches are kept, and which subset holds which rows.

Balažević et al., Towards In-Context Scene Understanding, NeurIPS 2023; sizes and sampling as in open-hummingbird-eval.
Pure functions of arrays: randomness comes in as an array of uniform numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


def patch_counts(label: UInt8[Tensor, "h w"], patch: int, classes: int) -> Int[Tensor, "n classes"]:
    """Pixels of each class in each patch, row by row; labels of `classes` and above (void) are not counted."""
    height, width = label.shape
    rows = torch.arange(height, device=label.device).div(patch, rounding_mode="floor")[:, None]
    columns = torch.arange(width, device=label.device).div(patch, rounding_mode="floor")[None, :]
    cells = (rows * (width // patch) + columns) * classes + label
    counted = label < classes
    n = (height // patch) * (width // patch)
    return torch.bincount(cells[counted], minlength=n * classes).view(n, classes)


def soft_labels(counts: Int[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """The share of each class among a patch's counted pixels; zeros where none is counted."""
    return counts.float() / counts.sum(1, keepdim=True).clamp(min=1)


def majority_labels(counts: Int[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """One-hot of the most frequent class of a patch; the lowest class wins a tie; zeros where no pixel is counted."""
    winner = torch.zeros(counts.shape, device=counts.device)
    winner.scatter_(1, counts.argmax(1, keepdim=True), 1.0)
    return winner * (counts.sum(1, keepdim=True) > 0)


def patch_pixels(label: UInt8[Tensor, "h w"], patch: int) -> UInt8[Tensor, "n pixels"]:
    """The label of every pixel of every patch: patches row by row, pixels row by row inside."""
    height, width = label.shape
    cut = label.view(height // patch, patch, width // patch, patch).transpose(1, 2)
    return cut.reshape(-1, patch * patch)


def rarity_order(counts: Int[Tensor, "n c"], uniform: Float[Tensor, "n"]) -> Int[Tensor, "m"]:
    """Patches of one image in the order in which a bounded memory takes them; patches without a counted pixel are left out.

    The score of a patch is the sum, over the classes that it shows, of the number of patches of the image that show the
    class, times a uniform number; the smallest come first. So rare classes and pure patches are favoured.
    """
    shows = counts > 0
    frequency = shows.sum(0)
    score = (shows * frequency).sum(1) * uniform
    kept = shows.any(1).nonzero()[:, 0]
    return kept[score[kept].argsort(stable=True)]


@dataclass(frozen=True)
class Layout:
    """How the rows of one memory serve several subsets.

    rows: how many patches each unit (one view of one image) gives, the first in its order. segments: lengths of blocks of
    rows that enter a subset together, unit by unit. members[s, b]: whether block b belongs to subset s.
    """

    rows: Int[Tensor, "units"]
    segments: Int[Tensor, "blocks"]
    members: Bool[Tensor, "subsets blocks"]

    def sizes(self) -> list[int]:
        """Rows of each subset."""
        return (self.members * self.segments).sum(1).tolist()


def layout(available: Int[Tensor, "units"], subsets: Bool[Tensor, "subsets units"], limits: Sequence[int | None]) -> Layout:
    """Lay out the rows of every unit once, so that each subset s sees the first `limits[s]` rows of its units.

    `available` rows exist in each unit. A limit of None, or one above what is there, takes all. Subsets with different
    limits share rows: a unit is cut into blocks at the limits of the subsets that hold it.
    """
    rows, segments, members = [], [], []
    for unit, count in enumerate(available.tolist()):
        holders = [s for s in range(len(subsets)) if subsets[s, unit]]
        wanted = {s: min(count, count if (limit := limits[s]) is None else limit) for s in holders}
        cuts = sorted({end for end in wanted.values() if end > 0})
        rows.append(cuts[-1] if cuts else 0)
        for start, end in pairwise([0, *cuts]):
            segments.append(end - start)
            members.append([wanted.get(s, 0) >= end for s in range(len(subsets))])
    blocks = torch.tensor(members, dtype=torch.bool).view(len(segments), len(subsets))
    return Layout(torch.tensor(rows), torch.tensor(segments, dtype=torch.int64), blocks.T.contiguous())


def standard_scores(
    rows: Float[Tensor, "m d"], statistics: tuple[Float[Tensor, "d"], Float[Tensor, "d"]]
) -> Float[Tensor, "m d"]:
    """Subtract the mean and divide by the standard deviation of each feature; constant features stay 0."""
    mean, deviation = statistics
    return (rows - mean) / torch.where(deviation > 0, deviation, 1.0)
