"""Tokens: the patch features of many images, standardised and reduced by PCA to be clustered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from densebench.datasets.dataset import Item
from densebench.errors import UserError
from densebench.evaluation.option_groups import Clustered
from densebench.features.extract import Features

Projection = Callable[[Float[Tensor, "gh gw d"]], Float[Tensor, "gh gw p"]]


def tokens_of(
    options: Clustered, features: Features, items: Sequence[Item], shape: Projection | None = None
) -> tuple[Float[Tensor, "n p"], tuple[int, int]]:
    """Return the tokens of all images, image by image and row by row, and the grid that those of one image form.

    `shape` changes each grid further. Raises UserError for features that are not finite.
    """
    project = projection(options, features, items)
    parts = []
    for item in items:
        grid = project(features[item].float())
        grid = grid if shape is None else shape(grid)
        if not grid.isfinite().all():
            raise UserError(f"the features of {item.name} are not finite numbers; check the weights, or use --precision fp32")
        parts.append(grid)
    return torch.cat([part.flatten(0, 1) for part in parts]), (int(parts[0].shape[0]), int(parts[0].shape[1]))


def projection(options: Clustered, features: Features, items: Sequence[Item]) -> Projection:
    """Return the standardisation and PCA of all tokens as one affine map. Raises UserError for more components than features."""
    width = features[items[0]].shape[-1]
    if options.pca is not None and options.pca > width:
        raise UserError(f"--pca {options.pca}: the features have {width} dimensions; give {width} at most, or none")
    total, outer, count = torch.zeros(width).double(), torch.zeros(width, width).double(), 0
    for item in items if options.standardise or options.pca else ():
        rows = features[item].flatten(0, 1).double()
        total, outer, count = total + rows.sum(0), outer + rows.T @ rows, count + len(rows)
    if not count:
        return lambda grid: grid
    mean = total / count
    covariance = outer / count - mean[:, None] * mean
    scale = covariance.diagonal().clamp(min=1e-12).sqrt() if options.standardise else torch.ones_like(mean)
    axes = torch.diag(1 / scale)
    if options.pca is not None:
        _, vectors = torch.linalg.eigh(covariance / scale[:, None] / scale)
        axes = axes @ vectors[:, -options.pca :].flip(1)
    return lambda grid: ((grid.double() - mean) @ axes).float()
