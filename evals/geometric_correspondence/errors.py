"""How far matches are from where their points are, in space and in the picture."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from densebench.evals.geometric_correspondence.frames import Surface
from densebench.evals.geometric_correspondence.geometry import projected


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
