"""The memory: labelled patches of training images with their features, and which rows belong to each subset of the images.

Sizes and sampling as in open-hummingbird-eval: the patches that a memory may hold are divided equally among the views of its
images. One memory serves several subsets: a row that belongs to several of them is stored once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from densebench.errors import UserError
from densebench.evaluation.patch_labels import LabelledView
from densebench.features.extract import Features
from densebench.features.views import View
from densebench.numerics.moments import mean_and_variance, standard_scores


@dataclass(frozen=True)
class Layout:
    """How the rows of one memory serve several subsets.

    rows: the number of patches that each view contributes (the first ones in its order). segments: the lengths of the blocks into
    which the rows are cut, view by view; a subset holds all of a block or none of it. members[s, b]: whether block b belongs to
    subset s.
    """

    rows: Int[Tensor, "views"]
    segments: Int[Tensor, "blocks"]
    members: Bool[Tensor, "subsets blocks"]

    def sizes(self) -> list[int]:
        """Return the number of rows of each subset."""
        return (self.members * self.segments).sum(1).tolist()

    def part(self, views: slice) -> Layout:
        """Return the layout of the rows of some consecutive views."""
        start, end = int(self.rows[: views.start].sum()), int(self.rows[: views.stop].sum())
        first = self.segments.cumsum(0) - self.segments
        inside = (first >= start) & (first < end)
        return Layout(self.rows[views], self.segments[inside], self.members[:, inside])


def layout(available: Int[Tensor, "views"], subsets: Bool[Tensor, "subsets views"], limits: Sequence[int | None]) -> Layout:
    """Return a layout that stores every row once and in which subset s holds the first `limits[s]` rows of each of its views.

    available: the number of rows of each view. A limit of None, or one above that number, takes all. Subsets with different
    limits share rows: a view is cut into blocks at the limits of the subsets that hold it.
    """
    rows, segments, members = [], [], []
    for view, count in enumerate(available.tolist()):
        holders = [s for s in range(len(subsets)) if subsets[s, view]]
        wanted = {s: min(count, count if (limit := limits[s]) is None else limit) for s in holders}
        cuts = sorted({end for end in wanted.values() if end > 0})
        rows.append(cuts[-1] if cuts else 0)
        for start, end in pairwise([0, *cuts]):
            segments.append(end - start)
            members.append([wanted.get(s, 0) >= end for s in range(len(subsets))])
    blocks = torch.tensor(members, dtype=torch.bool).view(len(segments), len(subsets))
    return Layout(torch.tensor(rows), torch.tensor(segments, dtype=torch.int64), blocks.T.contiguous())


def layout_of(labelled: Sequence[LabelledView], subsets: Bool[Tensor, "subsets views"], size: int | None) -> Layout:
    """Return the layout of labelled views, with at most `size` rows in a subset (None: all rows).

    Raises UserError where the memory is too small to hold one row of every view.
    """
    available = torch.tensor([len(view.patches) for view in labelled])
    return layout(available, subsets, row_limits(subsets, size))


def row_limits(subsets: Bool[Tensor, "subsets views"], size: int | None) -> list[int | None]:
    """Return how many rows each subset takes of each of its views when `size` rows are divided equally; None takes all.

    Raises UserError where the memory is too small to hold one row of every view.
    """
    limits: list[int | None] = []
    for views in subsets.sum(1).tolist():
        if size is not None and size < views:
            raise UserError(f"--memory-size {size}: less than one patch for each of {views} views; give at least {views}")
        limits.append(None if size is None else size // views)
    return limits


def view_limits(subsets: Bool[Tensor, "subsets views"], limits: Sequence[int | None]) -> list[int | None]:
    """Return for each view the largest of the limits of its subsets: the number of its rows that are needed; None: all."""
    most: list[int | None] = []
    for holders in subsets.T.tolist():
        taken = [limit for limit, holds in zip(limits, holders, strict=True) if holds]
        bounded = [limit for limit in taken if limit is not None]
        most.append(max(bounded, default=0) if len(bounded) == len(taken) else None)
    return most


@dataclass(frozen=True)
class Scaling:
    """How features are scaled before they are compared.

    They are standardised where there are `statistics` (mean and standard deviation of each feature). For the cosine, queries and
    rows of the memory are scaled to length 1; with norm "patches", rows of the memory are instead scaled so that each feature has
    length 1 over the patches of an image.
    """

    metric: str
    norm: str
    statistics: tuple[Float[Tensor, "d"], Float[Tensor, "d"]] | None = None

    def rows(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the patches of one view, scaled as rows of the memory."""
        if self.metric == "cosine" and self.norm == "patches":
            standard = self._standard(features)
            return standard / standard.norm(dim=0).clamp(min=1e-12)
        return self.queries(features)

    def queries(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return patches, scaled as queries."""
        standard = self._standard(features)
        return standard if self.metric == "l2" else F.normalize(standard, dim=1)

    def to(self, device: torch.device) -> Scaling:
        """Return the same scaling with its statistics on a device."""
        moved = None if self.statistics is None else (self.statistics[0].to(device), self.statistics[1].to(device))
        return Scaling(self.metric, self.norm, moved)

    def _standard(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return features if self.statistics is None else standard_scores(features, *self.statistics)


@dataclass(frozen=True)
class Memory:
    """Rows of features and labels, from which patch of which view each came, and which rows each subset holds.

    Of several processes each holds the features and labels of some consecutive `views`; what else there is, is that of all rows.
    """

    features: Float[Tensor, "own d"]
    labels: Shaped[Tensor, "own width"]
    norms: Float[Tensor, "own"]
    """Lengths of the rows before they were rounded to the memory's precision."""
    view: Int[Tensor, "m"]
    patch: Int[Tensor, "m"]
    labelled: Sequence[LabelledView]
    layout: Layout
    scaling: Scaling
    views: slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class TrainingPatches:
    """What memories are filled from: labelled views of training images, and the features of their patches."""

    labelled: Sequence[LabelledView]
    features: Mapping[View, Features]

    def held(self, subsets: Bool[Tensor, "subsets views"]) -> list[LabelledView]:
        """Return the views that belong to at least one of the subsets."""
        return [view for view, inside in zip(self.labelled, subsets.any(0).tolist(), strict=True) if inside]

    def patches(self, view: LabelledView) -> Float[Tensor, "n d"]:
        """Return the features of all patches of a view, in row-major order."""
        return self.features[view.view][view.item].flatten(0, 1)

    def statistics(self, subsets: Bool[Tensor, "subsets views"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
        """Return the mean and the standard deviation of each feature over all patches of the subsets' images."""
        mean, variance = mean_and_variance(self.patches(view) for view in self.held(subsets))
        return mean.float(), variance.clamp(min=0).sqrt().float()

    def fill(self, layout: Layout, scaling: Scaling, dtype: torch.dtype, views: slice = slice(None)) -> Memory:
        """Return the memory: scaled features and labels of the rows that the layout takes from each view.

        views: those whose features and labels this process holds.
        """
        counts, first = layout.rows[views].tolist(), self.labelled[0]
        rows = torch.empty(sum(counts), self.patches(first).shape[1], dtype=dtype)
        norms, labels = torch.empty(len(rows)), torch.empty(len(rows), first.labels.shape[1], dtype=first.labels.dtype)
        start = 0
        for view, count in zip(self.labelled[views], counts, strict=True):
            span, patches = slice(start, start + count), view.patches[:count]
            if count:
                scaled = scaling.rows(self.patches(view)[patches].float())
                rows[span], norms[span] = scaled.to(dtype), scaled.norm(dim=1)
                labels[span] = view.labels[:count]
            start += count
        taken = zip(self.labelled, layout.rows.tolist(), strict=True)
        patch = torch.cat([view.patches[:count].to(torch.int32) for view, count in taken])
        of_view = torch.repeat_interleave(torch.arange(len(self.labelled), dtype=torch.int32), layout.rows)
        return Memory(rows, labels, norms, of_view, patch, self.labelled, layout, scaling, views)
