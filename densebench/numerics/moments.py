"""Mean and variance of features that come in parts, and features of mean 0 and deviation 1."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def mean_and_variance(parts: Iterable[Float[Tensor, "_ d"]]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Return the mean and the variance of each feature over the rows (at least one) of all parts, in float64.

    variance = E[x x] - E[x] E[x], which rounding may leave slightly below 0.
    """
    total = squares = torch.zeros(())
    rows = 0
    for part in parts:
        wide = part.double()
        total, squares, rows = total + wide.sum(0), squares + wide.square().sum(0), rows + len(wide)
    mean = total / rows
    return mean, squares / rows - mean.square()


def standard_scores(rows: Float[Tensor, "m d"], mean: Float[Tensor, "d"], deviation: Float[Tensor, "d"]) -> Float[Tensor, "m d"]:
    """Return the rows less the mean, divided by the standard deviation of each feature; constant features become 0."""
    return (rows - mean) / torch.where(deviation > 0, deviation, 1.0)
