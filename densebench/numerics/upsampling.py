"""Grids of features made finer without training: by neighbours, bilinearly, or led by the image.

- joint bilateral: Kopf et al., Joint Bilateral Upsampling, SIGGRAPH 2007. Here the features are upsampled bilinearly, and each
  pixel becomes the mean of a square window, weighted by distance and by the difference of colours.
- guided: He et al., Guided Image Filtering, TPAMI 2013, of the features upsampled bilinearly: in each window the best affine
  function of the image's colours.

    joint bilateral:  out_i = sum_j w_ij p_j / sum_j w_ij,   w_ij = exp(-|i - j|^2 / 2 s^2) exp(-|I_i - I_j|^2 / 2 c^2)
    guided:           out_i = mean_k(a_k) . I_i + mean_k(b_k),
                      a_k = (cov_k(I) + eps 1)^-1 cov_k(I, p),   b_k = mean_k(p - a_k . I)

Both are linear in p, the features, and reach a few cells of the grid. So `through_cells` filters the indicators of the cells, as
many as there are within reach, and multiplies the result with the features of each neighbourhood: that costs the same for a few
channels as for a thousand, and gives what filtering every channel gives, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

AT_ONCE = 2**24
"""Numbers that a filter holds at once, about: it bounds the memory."""

Filter = Callable[[Float[Tensor, "b n h w"], Float[Tensor, "b c h w"]], Float[Tensor, "b n h w"]]
"""A filter of pictures that is led by other pictures of the same size."""


def nearest(features: Float[Tensor, "b d gh gw"], size: tuple[int, int]) -> Float[Tensor, "b d h w"]:
    """Return the feature of the cell under the centre of each output pixel."""
    return F.interpolate(features, size, mode="nearest-exact")


def bilinear(features: Float[Tensor, "b d gh gw"], size: tuple[int, int]) -> Float[Tensor, "b d h w"]:
    """Return features interpolated between the centres of cells; beyond the outermost centres they stay."""
    return F.interpolate(features, size, mode="bilinear", align_corners=False)


def joint_bilateral_filter(
    inputs: Float[Tensor, "b n h w"],
    guidance: Float[Tensor, "b c h w"],
    radius: int,
    sigma_space: float,
    sigma_colour: float,
    norm: int = 2,
) -> Float[Tensor, "b n h w"]:
    """Return the mean of the window around each pixel, weighted by distance and colour; borders are reflected.

    radius, sigma_space: px; the window has 2 radius + 1 px on a side. sigma_colour: in the units of the guidance. norm: of the
    difference of colours, 2 (Euclidean) or 1 (sum of absolute differences). Raises ValueError where a side is not larger than
    the radius, so that nothing is there to be reflected.
    """
    if min(inputs.shape[2:]) <= radius:
        raise ValueError(f"a window of radius {radius} px is reflected in pictures of more than {radius} px on a side")
    rows, columns = (_reflected(side, radius, inputs.device) for side in inputs.shape[2:])
    total, weights = torch.zeros_like(inputs), torch.zeros_like(guidance[:, :1])
    for down in range(-radius, radius + 1):
        at_row = rows[radius + down : radius + down + inputs.shape[2]]
        shifted_inputs, shifted_guidance = inputs.index_select(2, at_row), guidance.index_select(2, at_row)
        for right in range(-radius, radius + 1):
            at_column = columns[radius + right : radius + right + inputs.shape[3]]
            difference = shifted_guidance.index_select(3, at_column) - guidance
            far = difference.norm(dim=1, keepdim=True) if norm == 2 else difference.abs().sum(dim=1, keepdim=True)
            exponent = (down**2 + right**2) / (2 * sigma_space**2) + far.square() / (2 * sigma_colour**2)
            weight = torch.exp(-exponent)
            total.addcmul_(shifted_inputs.index_select(3, at_column), weight)
            weights += weight
    return total.div_(weights)


def guided_filter(
    inputs: Float[Tensor, "b n h w"], guidance: Float[Tensor, "b c h w"], radius: int, eps: float
) -> Float[Tensor, "b n h w"]:
    """Return each input as an affine function of the guidance in the windows around each pixel; c is 1 (grey) or 3 (RGB).

    radius: px; windows have 2 radius + 1 px on a side, less beyond the border. eps: what is added to the variance of the
    guidance: contrasts far below its root are smoothed away. With eps 0, windows of constant guidance give their mean.
    """
    guidance = guidance - guidance.mean(dim=(2, 3), keepdim=True)  # changes nothing, and loses fewer digits in the variances
    mean = box_mean(guidance, radius)
    inverse = _inverse(_covariance(guidance, mean, radius), eps)
    part = max(1, AT_ONCE // (4 * guidance.shape[0] * guidance.shape[2] * guidance.shape[3]))
    done = [_guided(some, guidance, mean, inverse, radius) for some in inputs.split(part, dim=1)]
    return done[0] if len(done) == 1 else torch.cat(done, dim=1)


def box_mean(inputs: Float[Tensor, "b n h w"], radius: int) -> Float[Tensor, "b n h w"]:
    """Return the mean of the part of the window around each pixel that lies inside the picture."""
    size = 2 * radius + 1
    rows = F.avg_pool2d(inputs, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, size), stride=1, padding=(0, radius), count_include_pad=False)


def through_cells(
    apply: Filter, reach: int, features: Float[Tensor, "b d gh gw"], guidance: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b d h w"]:
    """Return what a linear filter makes of features upsampled bilinearly to the size of the guidance, a multiple of the grid.

    reach: px; a pixel's result depends on no pixel that is farther away along an axis. Few channels are filtered themselves; of
    more, the indicators of cells are filtered instead, those of cells too far apart to be confused together.
    """
    factor = guidance.shape[2] // features.shape[2]
    cells = cells_within(reach, factor)
    step = 2 * cells + 1
    if features.shape[1] <= step**2:
        return apply(bilinear(features, (guidance.shape[2], guidance.shape[3])), guidance)
    grid = (features.shape[2], features.shape[3])
    return torch.cat([
        _combined(apply(_indicators(grid, step, factor, one), one), feature, cells, factor)
        for feature, one in zip(features.split(1), guidance.split(1), strict=True)
    ])  # fmt: skip


def cells_within(reach: int, factor: int) -> int:
    """Return how many cells away a cell can lie at most that bears on a pixel `reach` px away, by bilinear interpolation."""
    return math.floor((reach - 0.5) / factor + 0.5) + 1


def _reflected(side: int, radius: int, device: torch.device) -> Int[Tensor, "padded"]:
    """Return the indices of a row of pixels, reflected by `radius` at both ends without repeating the outermost."""
    index = torch.arange(-radius, side + radius, device=device).abs()
    return (side - 1) - ((side - 1) - index).abs()


def _covariance(guidance: Float[Tensor, "b c h w"], mean: Float[Tensor, "b c h w"], radius: int) -> Float[Tensor, "b c c h w"]:
    products = guidance[:, :, None] * guidance[:, None]
    return box_mean(products.flatten(1, 2), radius).view_as(products) - mean[:, :, None] * mean[:, None]


def _inverse(covariance: Float[Tensor, "b c c h w"], eps: float) -> Float[Tensor, "b c c h w"]:
    """Return the inverse of covariance + eps, 0 where there is none: written out, since a GPU solves small systems slowly."""
    if covariance.shape[1] == 1:
        variance = covariance + eps
        return torch.where(variance > 0, 1 / variance, torch.zeros_like(variance))
    rows = [[covariance[:, i, j] + (eps if i == j else 0.0) for j in range(3)] for i in range(3)]

    def minor(i: int, j: int) -> Tensor:
        (a, b), (c, d) = ([rows[m][n] for n in ((j + 1) % 3, (j + 2) % 3)] for m in ((i + 1) % 3, (i + 2) % 3))
        return a * d - b * c

    minors = torch.stack([torch.stack([minor(i, j) for i in range(3)], dim=1) for j in range(3)], dim=1)
    determinant = sum(rows[0][j] * minors[:, j, 0] for j in range(3))
    assert isinstance(determinant, Tensor)
    whole = determinant[:, None, None]
    return torch.where(whole > 0, minors / whole, torch.zeros_like(minors))


def _guided(
    inputs: Float[Tensor, "b n h w"],
    guidance: Float[Tensor, "b c h w"],
    mean: Float[Tensor, "b c h w"],
    inverse: Float[Tensor, "b c c h w"],
    radius: int,
) -> Float[Tensor, "b n h w"]:
    channels = range(guidance.shape[1])
    mean_inputs = box_mean(inputs, radius)
    joint = [box_mean(inputs * guidance[:, i : i + 1], radius) - mean_inputs * mean[:, i : i + 1] for i in channels]
    offset, result = mean_inputs, torch.zeros_like(inputs)
    for i in channels:
        slope = torch.stack([inverse[:, i, j, None] * joint[j] for j in channels]).sum(dim=0)
        offset = offset - slope * mean[:, i : i + 1]
        result.addcmul_(box_mean(slope, radius), guidance[:, i : i + 1])
    return result.add_(box_mean(offset, radius))


def _indicators(grid: tuple[int, int], step: int, factor: int, like: Tensor) -> Float[Tensor, "1 n h w"]:
    """Return the indicators of every `step`-th cell along both axes, upsampled bilinearly: step x step pictures."""
    (gh, gw), (h, w) = grid, like.shape[2:]
    eyes = [torch.eye(step, dtype=like.dtype, device=like.device).repeat(1, -(-side // step))[:, :side] for side in (gh, gw)]
    rows, columns = (
        F.interpolate(eye[None], side, mode="linear", align_corners=False)[0] for eye, side in zip(eyes, (h, w), strict=True)
    )
    return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(0, 1)[None]


def _combined(
    weights: Float[Tensor, "1 n h w"], features: Float[Tensor, "1 d gh gw"], cells: int, factor: int
) -> Float[Tensor, "1 d h w"]:
    """Return the features of the cells around each pixel, summed by the weights that the filtered indicators are.

    Of the cells that share an indicator only one lies within reach of a pixel: its weight is the indicator's value there.
    """
    step, (d, gh, gw) = 2 * cells + 1, features.shape[1:]
    rows, columns = (_within(side, cells, features.device) for side in (gh, gw))
    by_cell = weights.view(step**2, gh, factor, gw, factor).permute(1, 3, 2, 4, 0)  # [gh gw factor factor n]
    vectors = features[0].movedim(0, -1)
    result = features.new_empty(gh, factor, gw, factor, d)
    part = max(1, AT_ONCE // (gw * max(step, factor) ** 2 * d))
    for start in range(0, gh, part):
        some = slice(start, min(start + part, gh))
        near = vectors[rows[some]][:, :, columns].permute(0, 2, 1, 3, 4)  # [rows gw step step d]
        sums = by_cell[some].flatten(0, 1).flatten(1, 2) @ near.flatten(0, 1).flatten(1, 2)
        result[some] = sums.view(-1, gw, factor, factor, d).permute(0, 2, 1, 3, 4)
    return result.view(gh * factor, gw * factor, d).movedim(-1, 0)[None]


def _within(side: int, cells: int, device: torch.device) -> Int[Tensor, "side step"]:
    """Return, for each of `side` cells in a row and each of `step` indicators, the index of the indicator's cell within reach.

    Where that cell lies beyond the border its weight is 0, and any cell will do.
    """
    step = 2 * cells + 1
    first = torch.arange(side, device=device)[:, None] - cells
    return (first + (torch.arange(step, device=device) - first) % step).clamp(0, side - 1)
