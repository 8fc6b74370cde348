"""Positions read from the features of many images, image by image, before and after directions are removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from densebench.datasets.dataset import Item
from densebench.features.extract import Features
from densebench.numerics.device_copy import joined_on_device
from densebench.numerics.position_readout import ReadoutSums, centres
from densebench.numerics.positional import position_share, without_directions
from densebench.processes import dealt, in_order, total

AT_ONCE = 16  # images whose features are worked on at once: bounds the memory and changes no result


@dataclass(frozen=True)
class Fold:
    """Pictures that a map is fitted on, and pictures that it reads."""

    fit: list[Item]
    read: list[Item]


@dataclass(frozen=True)
class Grids:
    """The features of images as unit vectors in float64, on a device, a few images at a time, without some directions."""

    features: Features
    shape: tuple[int, int]
    device: torch.device
    removed: Float[Tensor, "d r"] | None = None

    def without(self, removed: Float[Tensor, "d r"] | None) -> Grids:
        """Return the same grids, without directions."""
        return Grids(self.features, self.shape, self.device, removed)

    def of(self, items: Sequence[Item]) -> Iterator[Float[Tensor, "n patches d"]]:
        """Yield the features of images, patches row by row."""
        for start in range(0, len(items), AT_ONCE):
            grids = [self.features[item].flatten(0, 1)[None] for item in items[start : start + AT_ONCE]]
            together = joined_on_device(grids, self.device)
            if self.removed is None:
                yield F.normalize(together.double(), dim=-1)
            else:
                yield without_directions(together, self.removed)

    def sums(self, items: Sequence[Item]) -> ReadoutSums:
        """Return what a fit needs of images; each process adds up some of them."""
        sums = ReadoutSums.of(next(self.of(items[:1]))[:0], self.shape)  # of no image, which a process may have
        for grids in self.of(dealt(items)):
            sums = sums.plus(ReadoutSums.of(grids, self.shape))
        return ReadoutSums(*map(total, sums))

    def share(self, items: Sequence[Item]) -> float:
        """Return the variance over positions of the mean feature there as a share of all variance; see `position_share`."""
        like = next(self.of(items[:1]))[0]
        sums, squares = torch.zeros_like(like), like.new_zeros(())
        for grids in self.of(dealt(items)):
            sums, squares = sums + grids.sum(dim=0), squares + grids.square().sum()
        return position_share(total(sums), total(squares), len(items))

    def errors(self, items: Sequence[Item], fit: ReadoutSums, l2: float) -> Errors:
        """Return how far from the truth the positions of images are that a fit reads; each process reads some of them."""
        weights, centre = fit.fitted(l2), fit.centre()
        target = centres(self.shape).to(self.device)
        squared, absolute = [torch.zeros(0, 2).double()], [torch.zeros(0, 2).double()]
        for grids in self.of(dealt(items)):
            missed = (grids - centre) @ weights - target
            squared.append(missed.square().sum(dim=1))
            absolute.append(missed.abs().mean(dim=1))
        of_all = [in_order(torch.cat([part.cpu() for part in parts])) for parts in (squared, absolute)]
        sides = torch.tensor(self.shape, dtype=torch.float64)
        return Errors(of_all[0] / target.square().sum(dim=0).cpu(), of_all[1] * sides)


@dataclass(frozen=True)
class Errors:
    """What a map misses in each image, for row and column.

    missed: the sum of squared errors over that of a constant guess, NaN along a side of one patch. All images have the same grid,
    so 1 - the mean of it over images is the R^2 of all their patches together, of resampled images too.
    patches: the mean absolute error, in patches.
    """

    missed: Float[Tensor, "n 2"]
    patches: Float[Tensor, "n 2"]
