"""How far matches are from where their points are, in space and in the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.evals.geometric_correspondence.frames import Surface
from densebench.evals.geometric_correspondence.geometry import projected
from densebench.evals.geometric_correspondence.matching import area_under_recall, shares_within

SAMPLE = 64  # points of a pair for which chance is computed
VALUES = ("kept", "all", "same place", "chance", "area")
"""What is computed of a pair for each threshold: four recalls, and the area under that of the kept matches."""


def errors(true: Float[Tensor, "n 3"], found: Float[Tensor, "n 3"], focal: tuple[float, float]) -> dict[str, Float[Tensor, "n"]]:
    """Return the distance of each match to where the point is, in space ("cm": metres) and as both are seen ("px")."""
    seen = projected(true, focal) - projected(found, focal)
    return {"cm": (true - found).norm(dim=1), "px": seen.norm(dim=1)}


def guessed(true: Float[Tensor, "n 3"], source: Surface, target: Surface) -> dict[str, Float[Tensor, "n"]]:
    """Return the errors of taking the point at the same place of the other picture; infinite where no point is known there."""
    rows, columns = source.cells // source.grid[1], source.cells % source.grid[1]
    rows, columns = rows * target.grid[0] // source.grid[0], columns * target.grid[1] // source.grid[1]
    number = torch.full((target.grid[0] * target.grid[1],), -1)
    number[target.cells] = torch.arange(len(target.cells))
    index = number[rows * target.grid[1] + columns]
    found = errors(true, target.points[index.clamp(min=0)], target.focal)
    return {unit: values.where(index >= 0, torch.inf) for unit, values in found.items()}


def shares_of_pair(
    true: Float[Tensor, "n 3"], source: Surface, target: Surface, match: Int[Tensor, "n"], kept: Int[Tensor, "k"],
    limits: Sequence[tuple[str, float]],
) -> Float[Tensor, "limits 5"]:  # fmt: skip
    """Return VALUES at each limit. true: where the source's points are in the target's frame; kept: which matches are kept."""
    every = errors(true, target.points[match], target.focal)
    chosen = {unit: values[kept] for unit, values in every.items()}
    groups = (chosen, every, guessed(true, source, target), anywhere(true, target))
    rows = [
        [*(float(shares_within(group[unit], [limit])) for group in groups), area_under_recall(chosen[unit], limit)]
        for unit, limit in limits
    ]
    return torch.tensor(rows, dtype=torch.float64)


def anywhere(true: Float[Tensor, "n 3"], target: Surface) -> dict[str, Float[Tensor, "pairs"]]:
    """Return the errors of every match that SAMPLE points could have, those points being spread evenly over all."""
    index = torch.linspace(0, len(true) - 1, min(SAMPLE, len(true)), dtype=torch.float64).round().long()
    count = len(target.points)
    return errors(true[index].repeat_interleave(count, 0), target.points.repeat(len(index), 1), target.focal)
