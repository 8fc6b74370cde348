"""Points in space seen by a pinhole camera: x to the right, y down, z into the picture, in metres."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

NEAREST = 1e-9  # metres: what stands nearer to the camera's plane, or behind it, is projected from there, as in probe3d


def unprojected(
    places: Float[Tensor, "n 2"], depth: Float[Tensor, "n"], focal: tuple[float, float], centre: tuple[float, float]
) -> Float[Tensor, "n 3"]:
    """Return the points that are seen at places x, y in px, at a depth z. focal, centre: of x and y, in px."""
    rays = (places.double() - torch.tensor(centre, dtype=torch.float64)) / torch.tensor(focal, dtype=torch.float64)
    return torch.cat([rays, torch.ones(len(rays), 1, dtype=torch.float64)], 1) * depth.double()[:, None]


def projected(
    points: Float[Tensor, "n 3"], focal: tuple[float, float], centre: tuple[float, float] = (0.0, 0.0)
) -> Float[Tensor, "n 2"]:
    """Return where points are seen, x and y in px."""
    rays = points[:, :2] / points[:, 2:].clamp(min=NEAREST)
    return rays * torch.tensor(focal, dtype=points.dtype) + torch.tensor(centre, dtype=points.dtype)


def moved(points: Float[Tensor, "n 3"], rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"]) -> Float[Tensor, "n 3"]:
    """Return R x + t of every point x."""
    return points @ rotation.T + translation


def rotation_angle(rotation: Float[Tensor, "3 3"]) -> float:
    """Return the angle of a rotation in degrees, 0..180, from its trace 1 + 2 cos(angle)."""
    cosine = (float(rotation.diagonal().sum()) - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
