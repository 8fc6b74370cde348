"""Features at keypoints, and the cells of another image's grid that match them. Nothing here waits for a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

OUTSIDE = ("left-out", "zero", "gaussian")


@dataclass(frozen=True)
class Choice:
    """How the match is chosen among the patches of the target.

    window: None: the patch of the greatest similarity. Else the mean position of patches, weighted by
    exp(similarity / temperature). 0: of all patches; n: with regard to a square of n patches to each side of the best one.
    outside, what becomes of the similarities around that square: "left-out": they have no weight. "zero": they become 0, which
    still has a weight (GeoAware-SC). "gaussian": there is no square, all similarities are multiplied by a Gaussian of deviation
    n around the best patch (the kernel soft-argmax of SFNet, Lee et al., CVPR 2019; INSID3).
    """

    window: int | None = None
    outside: str = "left-out"
    temperature: float = 0.04


def features_at(grid: Float[Tensor, "h w d"], cells: Float[Tensor, "k 2"]) -> Float[Tensor, "k d"]:
    """Return features interpolated bilinearly at cells (column, row) of the grid; those of whole cells as they are."""
    low = cells.floor()
    share = cells - low
    left, top = low.long().unbind(1)
    right, bottom = (left + 1).clamp(max=grid.shape[1] - 1), (top + 1).clamp(max=grid.shape[0] - 1)
    across, down = share[:, :1], share[:, 1:]
    above = (1 - across) * grid[top, left] + across * grid[top, right]
    below = (1 - across) * grid[bottom, left] + across * grid[bottom, right]
    return (1 - down) * above + down * below


def similarities(
    queries: Float[Tensor, "k d"], grid: Float[Tensor, "h w d"], candidates: Bool[Tensor, "h w"]
) -> Float[Tensor, "k h w"]:
    """Return the dot products of queries and all patches; minus infinity for patches that may not be matched."""
    found = (queries @ grid.flatten(0, 1).T).view(len(queries), *grid.shape[:2])
    return found.masked_fill(~candidates, -torch.inf)


def best(similarity: Float[Tensor, "k h w"]) -> tuple[Int[Tensor, "k 2"], Bool[Tensor, "k"]]:
    """Return the cell (column, row) of the greatest similarity, row by row the first of equal ones, and where there are such."""
    flat = similarity.flatten(1)
    greatest = flat == flat.amax(1, keepdim=True)
    numbers = torch.arange(flat.shape[1], device=flat.device)
    first = torch.where(greatest, numbers, flat.shape[1]).amin(1)
    width = similarity.shape[2]
    return torch.stack([first % width, first // width], dim=1), greatest.sum(1) > 1


def chosen(similarity: Float[Tensor, "k h w"], choice: Choice) -> tuple[Float[Tensor, "k 2"], Bool[Tensor, "k"]]:
    """Return the matching cell (column, row) of each query, and whether several patches are equally similar."""
    peak, tied = best(similarity)
    if choice.window is None:
        return peak.to(similarity.dtype), tied
    columns, rows = (torch.arange(side, device=peak.device) for side in similarity.shape[:0:-1])
    across, down = columns - peak[:, :1], rows - peak[:, 1:]
    if choice.window:
        similarity = _around(similarity, across[:, None], down[:, :, None], choice)
    weights = F.softmax(similarity.flatten(1) / choice.temperature, dim=1).view_as(similarity)
    mean = [(weights.sum(dim) * cells).sum(1) for dim, cells in ((1, columns), (2, rows))]
    return torch.stack(mean, dim=1), tied


def _around(
    similarity: Float[Tensor, "k h w"], across: Int[Tensor, "k 1 w"], down: Int[Tensor, "k h 1"], choice: Choice
) -> Float[Tensor, "k h w"]:
    """Return similarities with regard to the distance, in patches, from the best one."""
    window, barred = int(choice.window or 0), similarity == -torch.inf
    if choice.outside == "gaussian":
        near = torch.exp(-(across**2 + down**2) / (2.0 * window**2))
        return (similarity * near).masked_fill(barred, -torch.inf)
    far = (across.abs() > window) | (down.abs() > window)
    return similarity.masked_fill(far, 0.0 if choice.outside == "zero" else -torch.inf).masked_fill(barred, -torch.inf)


def distance(
    source: Float[Tensor, "h w d"], inside: Bool[Tensor, "h w"], target: Float[Tensor, "H W d"], allowed: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """Return how far the patches of an object are from those of another one: the mean distance to the nearest.

    Features have length 1. inside, allowed: the patches of the two objects, one of each at least.
    """
    nearest = (source.flatten(0, 1) @ target.flatten(0, 1).T).masked_fill(~allowed.flatten(), -torch.inf).amax(1)
    apart = (2 - 2 * nearest).clamp(min=0).sqrt()
    weight = inside.flatten().to(apart.dtype)
    return (apart * weight).sum() / weight.sum()
