"""Mean shift as attention without parameters: each query moves to a mean of the tokens, weighted by similarity to it.

Su, Netchaev, Li, Ji: FLSL: Feature-level Self-supervised Learning, NeurIPS 2023, equations 4 (within a view) and 12 (between two
views).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.errors import UserError


def attention(queries: Float[Tensor, "b q d"], tokens: Float[Tensor, "b n d"], scale: float) -> Float[Tensor, "b q n"]:
    """Return softmax(scale * z . t) over the tokens t: the share of each token in the cluster of the query z."""
    return (scale * torch.bmm(queries, tokens.transpose(1, 2))).softmax(dim=2)


def mean_shift(queries: Float[Tensor, "b q d"], tokens: Float[Tensor, "b n d"], scale: float) -> Float[Tensor, "b q d"]:
    """Return the mode that each query reaches in one step: the mean token for scale 0, the nearest token for infinity."""
    return torch.bmm(attention(queries, tokens, scale), tokens)


def sharpened(weights: Float[Tensor, "b q n"], sharpness: float) -> Float[Tensor, "b q n"]:
    """Return a query's attention as a nearly binary mask of sum 1: about equal where it is above its mean, about 0 below."""
    mask = (sharpness * (weights - weights.mean(dim=2, keepdim=True))).sigmoid()
    return mask / mask.sum(dim=2, keepdim=True)


def grid_queries(noise: Float[Tensor, "b columns"], grid: tuple[int, int], window: int, pick: str) -> Int[Tensor, "b cells"]:
    """Return one patch of each window of a grid as a flat index, in row-major order: the queries of FLSL.

    noise: uniform in [0, 1), two columns and then one for each window. Where the window does not divide the grid, the block of
    windows lies in one of the corners: at the top where the first column is below 1/2, at the left where the second is.
    pick: the "first" (top left) patch of a window, or a "random" one.

    Raises UserError where no window fits into the grid.
    """
    windows(grid, window)
    rows, columns = (side // window for side in grid)
    device = noise.device
    top = (noise[:, 0] >= 0.5) * (grid[0] - rows * window)
    left = (noise[:, 1] >= 0.5) * (grid[1] - columns * window)
    row = torch.arange(rows, device=device).repeat_interleave(columns) * window + top[:, None]
    column = torch.arange(columns, device=device).repeat(rows) * window + left[:, None]
    if pick == "random":
        cell = (noise[:, 2:] * window**2).long().clamp(max=window**2 - 1)
        row, column = row + cell // window, column + cell % window
    return row * grid[1] + column


def windows(grid: tuple[int, int], window: int) -> int:
    """Return the number of queries that `grid_queries` takes from a view. Raises UserError where no window fits into the grid."""
    if window > min(grid):
        raise UserError(
            f"a window of {window} x {window} patches does not fit into views of {grid[0]} x {grid[1]}; use a smaller one"
        )
    return (grid[0] // window) * (grid[1] // window)
