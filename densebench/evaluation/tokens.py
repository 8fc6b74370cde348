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
from densebench.numerics.dealt_points import MEANS, Deal, DealtPoints, dealt_rows
from densebench.processes import collected, dealt, from_main, rank, world_size

Projection = Callable[[Float[Tensor, "gh gw d"]], Float[Tensor, "gh gw p"]]


def tokens_of(
    options: Clustered, features: Features, items: Sequence[Item], shape: Projection | None = None
) -> tuple[DealtPoints, tuple[int, int]]:
    """Return the tokens of all images, image by image and row by row, and the grid that those of one image form.

    A process holds the tokens of the images that `dealt` gives it. `shape` changes each grid further. Raises UserError for
    features that are not finite.
    """
    project = projection(options, features, items)

    def shaped(item: Item) -> Float[Tensor, "h w p"]:
        grid = project(features[item].float())
        grid = grid if shape is None else shape(grid)
        if not grid.isfinite().all():
            raise UserError(f"the features of {item.name} are not finite numbers; check the weights, or use --precision fp32")
        return grid

    parts = [shaped(item) for item in dealt(items)]
    like = parts[0] if parts else shaped(items[0])
    rows = torch.cat([part.flatten(0, 1) for part in parts]) if parts else like.flatten(0, 1)[:0]
    height, width = int(like.shape[0]), int(like.shape[1])
    return dealt_rows(rows, len(items) * height * width, height * width), (height, width)


def projection(options: Clustered, features: Features, items: Sequence[Item]) -> Projection:
    """Return the standardisation and PCA of all tokens as one affine map. Raises UserError for more components than features.

    Each process adds up its columns of the covariance over all images, in their order, so the map is the same to the last bit
    however many processes there are.
    """
    width = features[items[0]].shape[-1]
    if options.pca is not None and options.pca > width:
        raise UserError(f"--pca {options.pca}: the features have {width} dimensions; give {width} at most, or none")
    deal = Deal(width, MEANS, world_size())
    columns = deal.of(rank())
    total, outer, count = torch.zeros(len(columns)).double(), torch.zeros(width, len(columns)).double(), 0
    for item in items if options.standardise or options.pca else ():
        rows = features[item].flatten(0, 1).double()
        own = rows if deal.size == 1 else rows[:, columns]
        total, outer, count = total + own.sum(0), outer + rows.T @ own, count + len(rows)
    if not count:
        return lambda grid: grid
    total, outer = (deal.assembled(parts) for parts in zip(*collected([(total, outer)]), strict=True))
    mean = total / count
    covariance = outer / count - mean[:, None] * mean
    scale = covariance.diagonal().clamp(min=1e-12).sqrt() if options.standardise else torch.ones_like(mean)
    axes = torch.diag(1 / scale)
    if options.pca is not None:
        vectors = from_main(lambda: torch.linalg.eigh(covariance / scale[:, None] / scale).eigenvectors)
        axes = axes @ vectors[:, -options.pca :].flip(1)
    return lambda grid: ((grid.double() - mean) @ axes).float()
