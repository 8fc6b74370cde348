"""Scores of positions that are read from features, before and after directions of several kinds are removed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.backbones.debiased import Kind, directions_at
from densebench.evals.position.reading import Fold, Grids
from densebench.numerics.bootstrap import bootstrap_mean, interval
from densebench.numerics.position_readout import CONSTANT, ReadoutSums
from densebench.processes import from_main
from densebench.results.score import Point, Score

KINDS = ("black", "readout", "noise")
"""What directions are those of; the headline comes last."""


class Reader:
    """Reads positions from the features of one input, with the directions that a backbone and the regressions have."""

    def __init__(
        self, backbone: Backbone, size: int, l2: float, most: int, folds: Sequence[Fold], fit: Grids, read: Grids
    ) -> None:
        """size: the side of pictures in px. most: of directions. fit, read: the features of the pictures of the folds."""
        self.backbone, self.size, self.l2, self.most = backbone, size, l2, most
        self.folds, self.fit, self.grids = folds, fit, read
        self._known: dict[tuple[str, int], Tensor] = {}

    def scores(self, point: Point) -> list[Score]:
        """Return the scores of a point, of every kind of directions where some are removed; the headline comes last."""
        count = dict(point)["removed"]
        return [score for kind in (KINDS if count else KINDS[-1:]) for score in self.of_kind(point, kind, count)]

    def of_kind(self, point: Point, kind: str, count: int) -> list[Score]:
        """Return the scores without so many directions of a kind."""
        errors, details = [], list[dict[str, Any]]()
        for number, fold in enumerate(self.folds):
            removed = self.directions(kind, number, count) if count else None
            sums = self.fit.without(removed).sums(fold.fit)
            read = self.grids.without(removed)
            errors.append(read.errors(fold.read, sums, self.l2))
            share = {"position_share": read.share(fold.read), "without_position": 100 / len(fold.read)}
            details.append(about(fold, read, removed, sums) | share)
        missed, patches = (torch.cat([getattr(each, name) for each in errors]) for name in ("missed", "patches"))
        return scored(1 - missed, patches, kind, point, merged(details))

    def directions(self, kind: str, number: int, count: int) -> Float[Tensor, "d r"]:
        """Return directions, those that the regression of a fold reads among them; all where there are no more dimensions."""
        if count >= self.backbone.dim:
            return torch.eye(self.backbone.dim, dtype=torch.float64, device=self.grids.device)
        key = (kind, number if kind == "readout" else 0)
        if key not in self._known:
            self._known[key] = self._computed(kind, number).to(self.grids.device)
        return self._known[key][:, :count]

    def _computed(self, kind: str, number: int) -> Float[Tensor, "d r"]:
        """Return the first directions of a kind, of which every smaller number is the beginning."""
        if kind == "readout":
            return self.fit.sums(self.folds[number].fit).directions(self.l2, self.most)
        device = self.grids.device
        return from_main(lambda: directions_at(self.backbone, self.size, self.size, device, self.most, cast(Kind, kind)))


def about(fold: Fold, grids: Grids, removed: Tensor | None, sums: ReadoutSums) -> dict[str, Any]:
    """Return what the record says of a fit, and what is wrong with it."""
    patches = len(fold.fit) * math.prod(grids.shape)
    facts: dict[str, Any] = {"fit_images": len(fold.fit), "fit_patches": patches, "images": len(fold.read)}
    facts |= {"directions": 0 if removed is None else removed.shape[1]}
    if float(sums.covariance().diagonal().sum()) <= CONSTANT:
        facts["degenerate"] = "the features do not vary"
    elif patches <= len(sums.total):
        facts["degenerate"] = "no more patches than dimensions to fit on"
    return facts


def merged(details: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the details of all folds: counts and shares of two halves as a list."""
    names = dict.fromkeys(name for each in details for name in each)
    return {name: details[0][name] if len(details) == 1 else [each.get(name) for each in details] for name in names}


def scored(
    r2: Float[Tensor, "n 2"], patches: Float[Tensor, "n 2"], kind: str, point: Point, details: dict[str, Any]
) -> list[Score]:
    """Return the scores without directions of a kind; R^2, of which the values of images are given, comes last."""
    share, chance = (float(np.mean(details.pop(name))) for name in ("position_share", "without_position"))
    both = {"direction": "lower", "digits": 3, "unit": ""}
    return [
        Score(
            "position_share",
            kind,
            100 * share,
            axes=dict(point),
            details={**details, "without_position": chance},
            direction="lower",
        ),
        of_images(patches.mean(dim=1), "patch_error", kind, point, details, unit="patches", digits=2, direction="higher"),
        of_images(r2[:, 0], "r2_row", kind, point, details, **both),
        of_images(r2[:, 1], "r2_column", kind, point, details, **both),
        of_images(r2.mean(dim=1), "r2", kind, point, details, **both),
    ]


def of_images(values: Float[Tensor, "n"], metric: str, kind: str, point: Point, details: dict[str, Any], **shown: Any) -> Score:
    """Return the mean of one value an image, with its interval over images."""
    resampled = bootstrap_mean(values)
    value, draws = float(values.mean()), tuple(resampled.tolist())
    return Score(metric, kind, value, axes=dict(point), ci95=interval(resampled), bootstrap=draws, details=details, **shown)
