"""The memory bank as it is filled from a data set: features, labels and where each row came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from densebench.console import progress
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evaluation import memory
from densebench.features.extract import Features
from densebench.features.views import View, named_generator


@dataclass(frozen=True)
class Unit:
    """One view of one training image: what a memory takes its rows from."""

    item: Item
    view: View
    order: Int[Tensor, "rows"]
    """Patches in the order in which a bounded memory takes them; those without a counted pixel are not among them."""
    labels: Shaped[Tensor, "rows width"]
    """In that order: class shares, one-hot majorities, or the labels of a patch's pixels."""


@dataclass(frozen=True)
class Bank:
    """Rows of features and labels, and which rows each subset holds."""

    features: Float[Tensor, "m d"]
    labels: Shaped[Tensor, "m width"]
    norms: Float[Tensor, "m"]
    """Length of each row of `features` before the queries' metric is applied."""
    unit: Int[Tensor, "m"]
    patch: Int[Tensor, "m"]
    units: Sequence[Unit]
    layout: memory.Layout


@dataclass(frozen=True)
class Labelling:
    """How pixels become patch labels: see the settings of the same names in `incontext`."""

    patch: int
    classes: int
    kind: str
    read: Callable[[Item], UInt8[np.ndarray, "h w"]]
    """Label map of an item as the protocol sees it: void is `classes` or above."""

    def counts(self, label: UInt8[Tensor, "h w"]) -> Int[Tensor, "n classes"]:
        """Pixels of each class in each patch."""
        return memory.patch_counts(label, self.patch, self.classes)

    def keep(self, label: UInt8[Tensor, "h w"], counts: Int[Tensor, "n c"]) -> Bool[Tensor, "n"]:
        """Which patches carry a label: those with a counted pixel; for pixel votes those whose most frequent label is a class."""
        if self.kind != "pixels":
            return counts.any(1)
        return memory.patch_pixels(label, self.patch).mode(1).values < self.classes

    def labels(self, label: UInt8[Tensor, "h w"], counts: Int[Tensor, "n c"]) -> Shaped[Tensor, "n width"]:
        """The label of each patch."""
        if self.kind == "pixels":
            return memory.patch_pixels(label, self.patch)
        return memory.soft_labels(counts) if self.kind == "soft" else memory.majority_labels(counts)


def read_units(
    dataset: Dataset, items: Sequence[Item], views: Sequence[View], labelling: Labelling, limits: Sequence[int | None]
) -> list[Unit]:
    """Read the label maps of `items`, each under every view: one unit each, in that order.

    `limits` says how many rows of each unit any memory takes: those that are rarest (`memory.rarity_order`). None takes all,
    row by row.
    Raises UserError naming the file of a label map that is missing, of the wrong size or out of range.
    """
    units: list[Unit] = []
    with progress("training labels", len(items)) as bar:
        for item in items:
            label, digest = labelling.read(item), dataset.image_digest(item)
            for view in views:
                seen = view.label(label, digest)
                counts = labelling.counts(seen)
                kept = labelling.keep(seen, counts)
                limit = limits[len(units)]
                order = (
                    torch.arange(len(kept)) if limit is None else memory.rarity_order(counts, _uniform(len(kept), digest, view))
                )
                order = order[kept[order]][:limit]
                units.append(Unit(item, view, order, labelling.labels(seen, counts)[order]))
            bar.advance()
    return units


def _uniform(count: int, digest: str, view: View) -> Float[Tensor, "count"]:
    return torch.from_numpy(named_generator(f"rarity {view.epoch} {digest}").random(count, dtype=np.float32))


def row_limits(subsets: Bool[Tensor, "subsets units"], size: int | None) -> list[int | None]:
    """Rows that each subset takes of each of its units when `size` rows are divided equally; None takes all.

    Raises UserError where the memory is too small to hold one row of every unit.
    """
    limits: list[int | None] = []
    for held in subsets.sum(1).tolist():
        if size is not None and size < held:
            raise UserError(f"--memory-size {size}: less than one patch for each of {held} views; give at least {held}")
        limits.append(None if size is None else size // held)
    return limits


def unit_limits(subsets: Bool[Tensor, "subsets units"], limits: Sequence[int | None]) -> list[int | None]:
    """The most rows of each unit that any of its subsets takes."""
    found: list[int | None] = []
    for held in subsets.T.tolist():
        own = [limit for limit, inside in zip(limits, held, strict=True) if inside]
        bounded = [limit for limit in own if limit is not None]
        found.append(max(bounded, default=0) if len(bounded) == len(own) else None)
    return found


def lay_out(units: Sequence[Unit], subsets: Bool[Tensor, "subsets units"], size: int | None) -> memory.Layout:
    """Lay out the rows of `units` for the subsets, `size` rows each at the most."""
    available = torch.tensor([len(unit.order) for unit in units])
    return memory.layout(available, subsets, row_limits(subsets, size))


Transform = Callable[[Float[Tensor, "rows d"]], Float[Tensor, "rows d"]]


def fill(
    units: Sequence[Unit],
    layout: memory.Layout,
    features: dict[View, Features],
    transform: Transform,
    dtype: torch.dtype,
) -> Bank:
    """Gather the rows that the layout asks for. `transform` maps the kept rows of a unit to what the memory holds."""
    total = int(layout.rows.sum())
    width = features[units[0].view][units[0].item].shape[-1]
    rows = torch.empty(total, width, dtype=dtype)
    norms, patch = torch.empty(total), torch.empty(total, dtype=torch.int32)
    labels = torch.empty(total, units[0].labels.shape[1], dtype=units[0].labels.dtype)
    start = 0
    for unit, count in zip(units, layout.rows.tolist(), strict=True):
        span, kept = slice(start, start + count), unit.order[:count]
        if count:
            taken = transform(features[unit.view][unit.item].flatten(0, 1)[kept].float())
            rows[span], norms[span], patch[span] = taken.to(dtype), taken.norm(dim=1), kept.to(torch.int32)
            labels[span] = unit.labels[:count]
        start += count
    of_unit = torch.repeat_interleave(torch.arange(len(units), dtype=torch.int32), layout.rows)
    return Bank(rows, labels, norms, of_unit, patch, units, layout)
