"""Labelled patches of training images, read from label maps for protocols that learn from patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from densebench.console import progress
from densebench.datasets.dataset import Item
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.stages import Sample
from densebench.features.views import View, named_generator
from densebench.numerics.patch_labels import Labelling

HOLDOUT = 10  # one in so many training images chooses a setting


@dataclass(frozen=True)
class LabelledView:
    """One view of one training image, and those of its patches that carry a label."""

    item: Item
    view: View
    patches: Int[Tensor, "rows"]
    """Their indices in the grid (row-major), ascending, or in the order in which a bounded memory takes them."""
    labels: Shaped[Tensor, "rows width"]
    """The label of each of these patches: class shares, a one-hot majority, or the labels of its pixels."""


def read_labelled_views(
    space: LabelSpace, items: Sequence[Item], views: Sequence[View], labelling: Labelling, limits: Sequence[int | None]
) -> list[LabelledView]:
    """Read the label maps of `items` under every view, image by image.

    limits: for each view of each image in turn, how many patches to keep, the rarest ones (`rarity_order`); None: all of them.
    Raises UserError naming the file of a label map that is missing, of the wrong size or out of range.
    """
    labelled: list[LabelledView] = []
    with progress("training labels", len(items)) as bar:
        for item in items:
            label, digest = space.read_memory(item), space.dataset.image_digest(item)
            for view in views:
                pixels, limit = view.label(label, digest), limits[len(labelled)]
                uniform = None
                if limit is not None:
                    count = (pixels.shape[0] // labelling.patch) * (pixels.shape[1] // labelling.patch)
                    draws = named_generator(f"rarity {view.epoch} {digest}").random(count, dtype=np.float32)
                    uniform = torch.from_numpy(draws)
                labelled.append(LabelledView(item, view, *labelling.label(pixels, limit, uniform)))
            bar.advance()
    return labelled


def label_sample(space: LabelSpace, views: Sequence[View], labelling: Labelling) -> Sample:
    """Return the sample of a stage that reads labelled views."""

    def read(items: Sequence[Item]) -> None:
        read_labelled_views(space, items, views, labelling, [None] * len(items) * len(views))

    return read


def census(space: LabelSpace, labelled: Sequence[LabelledView]) -> dict[str, Any]:
    """Return how many images are learned from ("images"), and the classes that none of their patches shows ("absent")."""
    shown = np.zeros(space.classes, dtype=bool)
    for view in labelled:
        if view.labels.is_floating_point():
            shown |= view.labels.any(0).numpy()
        else:
            present = view.labels.unique().numpy()
            shown[present[present < space.classes]] = True
    return {"images": len({view.item.name for view in labelled}), "absent": space.absent(shown)}


def held_out(count: int) -> list[int]:
    """Return the indices of a tenth of `count` training images, at least one, on which a setting is chosen; always the same."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[: max(1, count // HOLDOUT)].tolist()
