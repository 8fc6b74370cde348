"""The matches of the keypoints of pairs, and which of them are right."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from densebench.console import progress
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.keypoints import Box, Pair
from densebench.errors import UserError
from densebench.evals.correspondence.geometry import (
    Grid,
    Points,
    candidates_of,
    cells_of,
    in_frame,
    in_image,
    patches_in,
    positions_of,
)
from densebench.evals.correspondence.guesses import CENTRE, RANDOM, SAME, box_centre, chances, hits, same_place
from densebench.evals.correspondence.matching import Choice, chosen, distance, features_at, similarities
from densebench.evals.correspondence.pairs import errors, length_of
from densebench.evals.correspondence.scoring import FEATURES, Outcome
from densebench.features.extract import Features
from densebench.features.padded_views import PaddedView, Placement
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.processes import collected, dealt

GRIDS = 32  # pictures whose features stay on the device: neighbours in a list of pairs share pictures
COLUMNS = 5  # of what is found for a keypoint: column, row, tied, constant, flipped


@dataclass(frozen=True)
class Rules:
    """The settings of the protocol by which keypoints are placed, matched and judged."""

    keypoints: str
    source: str
    renormalise: bool
    position: str
    candidates: str
    choice: Choice
    threshold: str
    strict: bool
    alphas: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Matcher:
    """Matches pairs. features: those of all pictures and, where mirrored sources count too, those of these."""

    rules: Rules
    dataset: Dataset
    view: PaddedView
    features: Sequence[Features]
    device: torch.device

    def outcomes(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Return the outcome of each pair; several processes share the work, and all get the whole."""
        own, found = dealt(pairs), list[Outcome]()
        grid_of = functools.lru_cache(maxsize=GRIDS)(self._grid)
        with progress("pairs", len(own), "pairs") as bar, torch.inference_mode():
            for pair, copy in one_late(((pair, self._matched(pair, grid_of)) for pair in own), self.device):
                found.append(self._judged(pair, copy.value()))
                bar.advance()
        return collected(found)

    def _grid(self, item: Item, kind: int) -> Float[Tensor, "h w d"]:
        """Return the features of a picture (kind 1: mirrored), scaled to length 1, on the device.

        Raises UserError for features that are not finite: nothing would be their most similar patch, and still hits be counted.
        """
        grid = self.features[kind][item]
        if not grid.isfinite().all():
            raise UserError(f"the features of {item.name} are not finite numbers; check the weights, or use --precision fp32")
        return F.normalize(on_device(grid, self.device).float(), dim=2)

    def _placed(self, item: Item) -> tuple[Placement, Grid]:
        placed = self.view.placement(*self.dataset.image_size(item))
        return placed, (placed.view[0] // self.view.stride, placed.view[1] // self.view.stride)

    def _matched(self, pair: Pair, grid_of: functools._lru_cache_wrapper[Float[Tensor, "h w d"]]) -> HostCopy:
        """Queue the matching of a pair; what comes back is [k COLUMNS]."""
        placed, grid = self._placed(pair.target)
        target = grid_of(pair.target, 0)
        allowed = self._on_device(candidates_of(placed, grid, self.rules.candidates))
        found = self._found(pair.source, pair.source_points, grid_of(pair.source, 0), target, allowed)
        if len(self.features) > 1:
            width = self.dataset.image_size(pair.source)[0]
            points, box = mirrored(pair.source_points, width), mirrored_box(pair.source_box, width)
            flipped = self._found(pair.source, points, grid_of(pair.source, 1), target, allowed)
            object_ = self._on_device(patches_in(pair.target_box, placed, grid))
            apart = [
                distance(grid_of(pair.source, kind), self._on_device(patches_in(of, *self._placed(pair.source))), target, object_)
                for kind, of in enumerate((pair.source_box, box))
            ]
            nearer = apart[1] < apart[0]
            found = torch.where(nearer, flipped, found)
            found[:, 4] = nearer
        return HostCopy(found)

    def _found(
        self,
        item: Item,
        points: Points,
        source: Float[Tensor, "h w d"],
        target: Float[Tensor, "H W d"],
        allowed: Bool[Tensor, "H W"],
    ) -> Float[Tensor, "k columns"]:
        placed, grid = self._placed(item)
        cells = cells_of(in_frame(points, placed, self.rules.keypoints), placed, grid, self.rules.source)
        queries = features_at(source, self._on_device(cells.astype(np.float32)))
        if self.rules.renormalise:
            queries = F.normalize(queries, dim=1)
        similarity = similarities(queries, target, allowed)
        best, tied = chosen(similarity, self.rules.choice)
        finite = similarity.masked_fill(~allowed, torch.inf)
        constant = similarity.flatten(1).amax(1) == finite.flatten(1).amin(1)
        return torch.cat([best, *(each[:, None].to(best.dtype) for each in (tied, constant, torch.zeros_like(tied)))], dim=1)

    def _on_device(self, values: np.ndarray) -> Tensor:
        return on_device(torch.from_numpy(np.ascontiguousarray(values)), self.device)

    def _judged(self, pair: Pair, found: Float[Tensor, "k columns"]) -> Outcome:
        """Return which of the matches of a pair are right, and the same of the guesses."""
        rules, size, placed_and_grid = self.rules, self.dataset.image_size(pair.target), self._placed(pair.target)
        placed, grid = placed_and_grid
        truth, values = self._truth(pair.target_points, placed), found.double().numpy()
        predicted = positions_of(values[:, :2], placed, grid, rules.position)
        guessed = {
            FEATURES: predicted,
            SAME: same_place(pair, self.dataset.image_size(pair.source), size),
            CENTRE: box_centre(pair, size),
        }
        limits = np.array(rules.alphas) * length_of(pair, size, rules.threshold)
        apart = {name: errors(points, truth, size, rules.threshold) for name, points in guessed.items()}
        right = {name: self._hits(distances, limits) for name, distances in apart.items()}
        rows, columns = np.nonzero(candidates_of(placed, grid, rules.candidates))
        patches = positions_of(np.stack([columns, rows], axis=1).astype(np.float64), placed, grid, rules.position)
        of_patches = errors(patches[None], truth[:, None], size, rules.threshold)
        right[RANDOM] = chances(of_patches, limits, rules.strict).sum(1)
        outside = tuple(
            int((~inside(points, self.dataset.image_size(item))).sum())
            for points, item in ((pair.source_points, pair.source), (pair.target_points, pair.target))
        )
        tied, constant, flipped = values[:, 2:].T
        return Outcome(
            right, len(truth), predicted, apart[FEATURES], int(tied.sum()), bool(constant.all()), bool(flipped.any()),
            (outside[0], outside[1]),
        )  # fmt: skip

    def _truth(self, points: Points, placed: Placement) -> Points:
        """Return the target's keypoints as they are compared with."""
        return points if self.rules.keypoints == "exact" else in_image(in_frame(points, placed, self.rules.keypoints), placed)

    def _hits(self, apart: Float[np.ndarray, "k"], limits: Float[np.ndarray, "a"]) -> Float[np.ndarray, "a"]:
        return np.array([hits(apart, limit, self.rules.strict).sum() for limit in limits], np.float64)


def inside(points: Points, size: tuple[int, int]) -> Bool[np.ndarray, "k"]:
    """Return which points lie in a picture of this width and height, its edges included."""
    found: np.ndarray = ((points >= 0) & (points <= np.array(size))).all(1)
    return found


def mirrored(points: Points, width: int) -> Points:
    """Return points of the mirrored picture of a width in px."""
    return np.stack([width - points[:, 0], points[:, 1]], axis=1)


def mirrored_box(box: Box | None, width: int) -> Box | None:
    """Return a box of the mirrored picture."""
    return None if box is None else (width - box[2], box[1], width - box[0], box[3])
