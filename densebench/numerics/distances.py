"""Euclidean distances of points in few dimensions, such as positions in an image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def distances_between(points: Float[Tensor, "*b n d"], others: Float[Tensor, "*b m d"]) -> Float[Tensor, "*b n m"]:
    """Return the distance of every point to every other one, exactly 0 where two are the same: differences are squared and added.

    On a GPU the squares are added axis by axis, since torch's `cdist` starts 256 threads for each pair of points and each
    coordinate occupies one of them: in two dimensions 254 idle.
    """
    if points.is_cuda:
        return distances_by_axis(points, others)
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def distances_by_axis(points: Float[Tensor, "*b n d"], others: Float[Tensor, "*b m d"]) -> Float[Tensor, "*b n m"]:
    """Return the same as `distances_between`, adding squares axis by axis; at most two arrays of the result's size are held."""
    squares = torch.zeros((), dtype=points.dtype, device=points.device)
    for here, there in zip(points.unbind(-1), others.unbind(-1), strict=True):
        squares = (here[..., :, None] - there[..., None, :]).square_().add_(squares)
    return squares.sqrt_()
