"""Labels of patches: one label for each patch from the pixels of a label map, and the order in which a bounded memory takes them.

Balažević et al., Towards In-Context Scene Understanding, NeurIPS 2023; the order of patches as in open-hummingbird-eval.
Randomness comes in as an array of uniform numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor


def patch_counts(label: UInt8[Tensor, "h w"], patch: int, classes: int) -> Int[Tensor, "n classes"]:
    """Return the pixels of each class in each patch, row by row; labels of `classes` and above (void) are not counted."""
    height, width = label.shape
    rows = torch.arange(height, device=label.device).div(patch, rounding_mode="floor")[:, None]
    columns = torch.arange(width, device=label.device).div(patch, rounding_mode="floor")[None, :]
    cells = (rows * (width // patch) + columns) * classes + label
    counted = label < classes
    n = (height // patch) * (width // patch)
    return torch.bincount(cells[counted], minlength=n * classes).view(n, classes)


def soft_labels(counts: Int[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Return the share of each class among a patch's counted pixels; zeros where no pixel is counted."""
    return counts.float() / counts.sum(1, keepdim=True).clamp(min=1)


def majority_labels(counts: Int[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Return the most frequent class of each patch, one-hot; the lowest class wins a tie; zeros where no pixel is counted."""
    winner = torch.zeros(counts.shape, device=counts.device)
    winner.scatter_(1, counts.argmax(1, keepdim=True), 1.0)
    return winner * (counts.sum(1, keepdim=True) > 0)


def patch_pixels(label: UInt8[Tensor, "h w"], patch: int) -> UInt8[Tensor, "n pixels"]:
    """Return the label of every pixel of every patch: patches row by row, pixels row by row within each."""
    height, width = label.shape
    cut = label.view(height // patch, patch, width // patch, patch).transpose(1, 2)
    return cut.reshape(-1, patch * patch)


def rarity_order(counts: Int[Tensor, "n c"], uniform: Float[Tensor, "n"]) -> Int[Tensor, "m"]:
    """Return the patches of one image that have a counted pixel, in the order in which a bounded memory takes them.

    The score of a patch is the sum, over the classes that it shows, of the number of patches of the image that show the
    class, times a uniform number; the smallest come first. So rare classes and pure patches are favoured.
    """
    shows = counts > 0
    frequency = shows.sum(0)
    score = (shows * frequency).sum(1) * uniform
    kept = shows.any(1).nonzero()[:, 0]
    return kept[score[kept].argsort(stable=True)]


@dataclass(frozen=True)
class Labelling:
    """How pixels become labels of patches.

    patch: side of a patch in px. classes: labels of this value and above are void. kind: "soft" (the share of each class),
    "majority" (one-hot) or "pixels" (the labels of all pixels).
    """

    patch: int
    classes: int
    kind: str

    def label(
        self, pixels: UInt8[Tensor, "h w"], limit: int | None, uniform: Float[Tensor, "n"] | None
    ) -> tuple[Int[Tensor, "rows"], Shaped[Tensor, "rows width"]]:
        """Return the patches of a label map that carry a label, and their labels.

        With a limit these are at most that many patches, in `rarity_order` by `uniform`; without one, all, row by row.
        A patch carries a label where a pixel is counted; for "pixels", where its most frequent label is a class.
        """
        counts = patch_counts(pixels, self.patch, self.classes)
        order = torch.arange(len(counts)) if limit is None or uniform is None else rarity_order(counts, uniform)
        if self.kind == "pixels":
            labels = patch_pixels(pixels, self.patch)
            labelled: Bool[Tensor, "n"] = labels.mode(1).values < self.classes
        else:
            labels = soft_labels(counts) if self.kind == "soft" else majority_labels(counts)
            labelled = counts.any(1)
        patches = order[labelled[order]][:limit]
        return patches, labels[patches]
