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
    return of_sums(sum(map(sums, parts), start=torch.zeros(())))


def sums(part: Float[Tensor, "m d"]) -> Float[Tensor, "3 d"]:
    """Return, in float64, the sum of each feature over the rows, that of its square, and how many rows there are."""
    wide = part.double()
    return torch.stack([wide.sum(0), wide.square().sum(0), wide.new_full((wide.shape[1],), len(wide))])


def of_sums(total: Float[Tensor, "3 d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Return mean and variance from the `sums` of all parts together."""
    mean = total[0] / total[2]
    return mean, total[1] / total[2] - mean.square()


def standard_scores(rows: Float[Tensor, "m d"], mean: Float[Tensor, "d"], deviation: Float[Tensor, "d"]) -> Float[Tensor, "m d"]:
    """Return the rows less the mean, divided by the standard deviation of each feature; constant features become 0."""
    return (rows - mean) / torch.where(deviation > 0, deviation, 1.0)
