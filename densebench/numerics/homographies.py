"""Homographies of pictures: drawn at random, applied to points and pictures, and measured.

A homography is a 3 x 3 matrix H that maps a point (x, y) of a picture to the point (u, v) of another: (u, v, 1) ~ H (x, y, 1).
Points are in px with 0 at the left and upper edge, so the centre of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

TRIES = 1000  # draws of one homography before a range counts as impossible


class NoHomographyError(ValueError):
    """No draw kept the wanted overlap."""


def corners(height: int, width: int) -> Float[np.ndarray, "4 2"]:
    """Return the corners x, y of a picture, clockwise from the upper left one."""
    return np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])


def sample_homography(
    generator: np.random.Generator,
    height: int,
    width: int,
    *,
    jitter: float,
    rotation: float,
    scale: float,
    overlap: float,
) -> Float[np.ndarray, "3 3"]:
    """Return a random homography of a picture of `height` x `width` px to one of the same size.

    The picture is turned about its centre by an angle uniform in +-`rotation` degrees and scaled by a factor whose logarithm is
    uniform between those of 1 / `scale` and `scale`; then each corner is moved by up to `jitter` of the width and of the height,
    uniformly. A draw is rejected where the four corners do not form a convex quadrilateral, or where `overlap_of` is below
    `overlap`. Without any range the result is the identity matrix, exactly. Raises NoHomographyError after TRIES rejected draws.
    """
    square = corners(height, width)
    if not jitter and not rotation and scale == 1:
        return np.eye(3)
    centre = np.array([width, height]) / 2
    for _ in range(TRIES):
        draws = generator.uniform(-1, 1, 10)
        angle, factor = math.radians(rotation) * draws[0], scale ** draws[1]
        turn = factor * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        moved = (square - centre) @ turn.T + centre + jitter * np.array([width, height]) * draws[2:].reshape(4, 2)
        if is_convex(moved):
            found = from_corners(square, moved)
            if overlap_of(found, height, width) >= overlap:
                return found
    raise NoHomographyError(f"none of {TRIES} random homographies keeps an overlap of {overlap:g}")


def from_corners(before: Float[np.ndarray, "4 2"], after: Float[np.ndarray, "4 2"]) -> Float[np.ndarray, "3 3"]:
    """Return the homography, with H[2, 2] = 1, that maps four points to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(before.tolist(), after.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(values)), 1.0).reshape(3, 3)


def is_convex(quad: Float[np.ndarray, "4 2"]) -> bool:
    """Return whether four points in order form a convex quadrilateral that runs clockwise (y down), as the corners do."""
    sides = np.roll(quad, -1, 0) - quad
    after = np.roll(sides, -1, 0)
    return bool((sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0] > 0).all())


def apply(homography: Float[np.ndarray, "3 3"], points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Return where points go. Those on the line that H sends to infinity become infinite or NaN."""
    moved = np.c_[points, np.ones(len(points))] @ homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return moved[:, :2] / moved[:, 2:]


def overlap_of(homography: Float[np.ndarray, "3 3"], height: int, width: int) -> float:
    """Return the smaller of two shares, 0..1: of the picture's area that stays inside, and of the warped picture's that it fills.

    So a homography and its inverse have the same overlap. The homography must map the picture to a convex quadrilateral.
    """
    seen = clipped(apply(homography, corners(height, width)), height, width)
    return min(area(seen), area(apply(np.linalg.inv(homography), seen))) / (height * width)


def area(polygon: Float[np.ndarray, "n 2"]) -> float:
    """Return the area of a polygon in px, by the shoelace formula; 0 for fewer than three points."""
    x, y = polygon.T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def clipped(polygon: Float[np.ndarray, "n 2"], height: int, width: int) -> Float[np.ndarray, "m 2"]:
    """Return the part of a convex polygon that lies in a picture (Sutherland and Hodgman 1974)."""
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        kept: list[np.ndarray] = []
        for here, there in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            inside, next_inside = (sign * (point[axis] - limit) >= 0 for point in (here, there))
            if inside:
                kept.append(here)
            if inside != next_inside:
                kept.append(here + (limit - here[axis]) / (there[axis] - here[axis]) * (there - here))
        polygon = np.array(kept).reshape(-1, 2)
    return polygon


def warp(image: Float[Tensor, "c h w"], homography: Float[np.ndarray, "3 3"], fill: float = 0.0) -> Float[Tensor, "c h w"]:
    """Return the picture that has at H x what `image` has at x, of the same size.

    Each pixel takes the value at the point of the image that H maps to its centre, bilinear between the four nearest pixels,
    without antialiasing; `fill` stands where that point lies outside of the image. Weights are computed in px, in float64, so
    that a shift by whole pixels copies values exactly.
    """
    height, width = image.shape[1:]
    y, x = np.mgrid[0:height, 0:width] + 0.5
    source = apply(np.linalg.inv(homography), np.stack([x.ravel(), y.ravel()], 1))
    inside = torch.from_numpy(((source >= 0) & (source <= [width, height])).all(1))
    at = torch.where(inside[:, None], torch.from_numpy(source) - 0.5, 0.0)
    values = _bilinear(
        image.flatten(1).double(), width, *(at[:, axis].clamp(0, side - 1) for axis, side in ((0, width), (1, height)))
    )
    return torch.where(inside, values, fill).to(image.dtype).unflatten(1, (height, width))


def _bilinear(
    pixels: Float[Tensor, "c pixels"], width: int, x: Float[Tensor, "n"], y: Float[Tensor, "n"]
) -> Float[Tensor, "c n"]:
    """Return values at places inside, in px with 0 at the centre of the first pixel; pixels are given row by row."""
    left, top = x.long(), y.long()
    right, below = (x.ceil().long(), y.ceil().long())
    across, down = x - left, y - top
    upper, lower = (torch.lerp(pixels[:, row * width + left], pixels[:, row * width + right], across) for row in (top, below))
    return torch.lerp(upper, lower, down)


def measures(homography: Float[np.ndarray, "3 3"], height: int, width: int) -> tuple[float, float, float]:
    """Return how far a homography turns (degrees, 0..180), scales (1: not at all) and tilts a picture.

    Rotation and scale are those of its linear part at the centre: the angle of the nearest rotation, and the root of the
    determinant. Tilt is the largest scale at a corner over the smallest: 1 for every affine map.
    """
    centre = jacobian(homography, width / 2, height / 2)
    angle = math.degrees(math.atan2(centre[1, 0] - centre[0, 1], centre[0, 0] + centre[1, 1]))
    scales = [math.sqrt(abs(np.linalg.det(jacobian(homography, x, y)))) for x, y in corners(height, width).tolist()]
    return abs(angle), math.sqrt(abs(np.linalg.det(centre))), max(scales) / min(scales)


def jacobian(homography: Float[np.ndarray, "3 3"], x: float, y: float) -> Float[np.ndarray, "2 2"]:
    """Return the derivatives of (u, v) by (x, y) at a point."""
    u, v, w = homography @ [x, y, 1.0]
    return (homography[:2, :2] - np.outer([u, v], homography[2, :2]) / w) / w
