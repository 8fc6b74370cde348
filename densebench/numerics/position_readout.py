"""How well the position of a patch can be read from its features by a linear map: ridge regression on row and column.

Position is information that dense features may keep or shed; Amir et al., Deep ViT Features as Dense Visual Descriptors, ECCVW
2022 (section 3) see it in pictures. Here it is a number: the coefficient of determination on images that the map has not seen.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

L2 = 1e-2


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
    target = _centres(shape).to(seen.device)
    weights = _ridge(seen / scale, target.repeat(len(train), 1), l2)
    error = held_out / scale @ weights - target.repeat(len(test), 1)
    total = len(test) * (target**2).sum(dim=0)
    row, column = (
        1 - float(missed) / float(all_of_it) if side > 1 else math.nan
        for side, missed, all_of_it in zip(shape, (error**2).sum(dim=0), total, strict=True)
    )
    return Readout(row, column)


def _centres(shape: tuple[int, int]) -> Float[Tensor, "patches 2"]:
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
