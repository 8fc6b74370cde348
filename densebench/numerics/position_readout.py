"""How well the position of a patch can be read from its features by a linear map: ridge regression on row and column.

Position is information that dense features may keep or shed; Amir et al., Deep ViT Features as Dense Visual Descriptors, ECCVW
2022 (section 3) see it in pictures. Here it is a number: the coefficient of determination on images that the map has not seen.

`position_readout` takes all features at once; `ReadoutSums` are what a fit needs of them, added up part by part.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

L2 = 1e-2
CONSTANT = 1e-10
"""A variance, of features of length 1, at or below which they do not vary but for the rounding of float32."""


class Readout(NamedTuple):
    """R^2 of the row and of the column on held-out images: 1 where they can be read exactly, 0 where a constant is as good."""

    row: float
    column: float


def position_readout(
    train: Float[Tensor, "n rows columns d"], test: Float[Tensor, "m rows columns d"], l2: float = L2
) -> Readout:
    """Return how well row and column of the patches of `test` are predicted by a ridge regression fitted on those of `train`.

        min over W, b of  (1 / N) sum_i |W' x_i / s + b - y_i|^2 + l2 |W|^2      over the N patches of `train`
        R^2 = 1 - sum (prediction - y)^2 / sum (y - mean y)^2                    over those of `test`

    y: the centres of patches in units of the grid, 0 to 1. s^2: the mean variance of a feature, so that the result does not
    depend on the scale of the features, nor on their basis. R^2 is negative where the map does worse than a constant, and NaN
    along a side of a single patch and without images. l2 must be above 0.
    """
    if l2 <= 0:
        raise ValueError(f"l2: {l2}; the ridge must be above 0")
    if not len(train) or not len(test):
        return Readout(math.nan, math.nan)
    shape = (int(train.shape[1]), int(train.shape[2]))
    seen, held_out = (grids.flatten(0, 2).double() for grids in (train, test))
    centre = seen.mean(dim=0)
    seen, held_out = seen - centre, held_out - centre
    scale = float((seen**2).mean().sqrt()) or 1.0
    target = centres(shape).to(seen.device)
    weights = _ridge(seen / scale, target.repeat(len(train), 1), l2)
    error = held_out / scale @ weights - target.repeat(len(test), 1)
    total = len(test) * (target**2).sum(dim=0)
    row, column = (
        1 - float(missed) / float(all_of_it) if side > 1 else math.nan
        for side, missed, all_of_it in zip(shape, (error**2).sum(dim=0), total, strict=True)
    )
    return Readout(row, column)


class ReadoutSums(NamedTuple):
    """Sums over patches of their features, of outer products of these, and of products with the centres of patches."""

    patches: Float[Tensor, ""]
    total: Float[Tensor, "d"]
    outer: Float[Tensor, "d d"]
    cross: Float[Tensor, "d 2"]

    @classmethod
    def of(cls, features: Float[Tensor, "n patches d"], shape: tuple[int, int]) -> ReadoutSums:
        """Return the sums over images whose patches, row by row, form a grid of this shape."""
        rows = features.double()
        target = centres(shape).to(rows.device)
        flat = rows.flatten(0, 1)
        count = torch.full((), len(flat), dtype=torch.float64, device=rows.device)
        return cls(count, flat.sum(dim=0), flat.T @ flat, rows.sum(dim=0).T @ target)

    def plus(self, other: ReadoutSums) -> ReadoutSums:
        """Return the sums over both."""
        return ReadoutSums(*(mine + more for mine, more in zip(self, other, strict=True)))

    def centre(self) -> Float[Tensor, "d"]:
        """Return the mean feature."""
        return self.total / self.patches

    def covariance(self) -> Float[Tensor, "d d"]:
        """Return the covariance of the features."""
        return self.outer / self.patches - torch.outer(self.centre(), self.centre())

    def fitted(self, l2: float) -> Float[Tensor, "d 2"]:
        """Return the weights W of the ridge regression of `position_readout`: (x - centre) W predicts row and column.

        l2: as there, as a multiple of the mean variance of a feature. All weights are 0 for features that do not vary.
        """
        covariance = self.covariance()
        ridge = l2 * covariance.diagonal().mean()
        varies = covariance.diagonal().sum() > CONSTANT
        covariance.diagonal().add_(torch.where(varies, ridge, 1.0))
        weights = torch.cholesky_solve(self.cross / self.patches, torch.linalg.cholesky(covariance))
        return torch.where(varies, weights, torch.zeros_like(weights))

    def directions(self, l2: float, most: int) -> Float[Tensor, "d r"]:
        """Return orthonormal directions that the regression reads positions from, r = `most` at most.

        The first two span its weights; the next two those of the regression on what is left without them, and so on (Ravfogel et
        al., Null It Out, ACL 2020). Fewer come back where nothing is left that goes with the position.
        """
        found = self.total.new_zeros(len(self.total), 0)
        covariance, cross = self.covariance(), self.cross / self.patches
        ridge = l2 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=cross.dtype, device=cross.device)
        least = 1e-9 * cross.norm()
        while found.shape[1] < most and cross.norm() > max(least, CONSTANT):
            weights = torch.linalg.solve(covariance + ridge, cross)
            weights = weights - found @ (found.T @ weights)
            new, lengths, _ = torch.linalg.svd(weights, full_matrices=False)
            new = new[:, lengths > 1e-9 * lengths[0]]
            found = torch.cat([found, new], dim=1)
            covariance, cross = _without(_without(covariance, new).T, new), _without(cross, new)
        return found[:, :most]


def _without(rows: Float[Tensor, "d m"], directions: Float[Tensor, "d r"]) -> Float[Tensor, "d m"]:
    return rows - directions @ (directions.T @ rows)


def centres(shape: tuple[int, int]) -> Float[Tensor, "patches 2"]:
    """Return the centres of the patches (row, column), 0 to 1, less their mean of a half."""
    row, column = ((torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5 for side in shape)
    return torch.stack(torch.meshgrid(row, column, indexing="ij"), dim=-1).flatten(0, 1)


def _ridge(rows: Float[Tensor, "n d"], targets: Float[Tensor, "n t"], l2: float) -> Float[Tensor, "d t"]:
    """Return the weights of a ridge regression of centred rows, by products of features or of rows, whichever are fewer."""
    count, width = rows.shape
    if width <= count:
        gram = rows.T @ rows / count
        gram.diagonal().add_(l2)
        return torch.cholesky_solve(rows.T @ targets / count, torch.linalg.cholesky(gram))
    gram = rows @ rows.T / count
    gram.diagonal().add_(l2)
    return rows.T @ torch.cholesky_solve(targets / count, torch.linalg.cholesky(gram))
