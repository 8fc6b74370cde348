"""Grids made finer: cases that can be worked out by hand, loops over windows, and what must not matter.

Kopf et al., Joint Bilateral Upsampling, SIGGRAPH 2007; He et al., Guided Image Filtering, TPAMI 2013.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from densebench.numerics import upsampling

SPACE, COLOUR = 1.5, 0.1


def row(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_cells_become_four_bilinearly():
    assert upsampling.bilinear(row(0, 1), (1, 4)).flatten().tolist() == [0, 0.25, 0.75, 1]


def test_three_cells_become_five_by_their_nearest():
    assert upsampling.nearest(row(0, 1, 2), (1, 5)).flatten().tolist() == [0, 0, 1, 2, 2]


def test_without_an_edge_the_joint_bilateral_filter_is_a_gaussian_blur():
    inputs, flat = drawn(2, 3, 9, 8), torch.full((2, 3, 9, 8), 0.4, dtype=torch.float64)
    offsets = torch.arange(-2, 3, dtype=torch.float64)
    bell = torch.exp(-(offsets**2) / (2 * SPACE**2))
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    padded = F.pad(inputs, (2, 2, 2, 2), mode="reflect")
    expected = F.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).view_as(inputs)
    torch.testing.assert_close(upsampling.joint_bilateral_filter(inputs, flat, 2, SPACE, COLOUR), expected)


def test_without_an_edge_the_guided_filter_is_a_box_of_a_box():
    inputs, flat = drawn(1, 4, 7, 9), torch.full((1, 3, 7, 9), 0.4, dtype=torch.float64)
    expected = upsampling.box_mean(upsampling.box_mean(inputs, 2), 2)
    torch.testing.assert_close(upsampling.guided_filter(inputs, flat, 2, 1e-3), expected)
    torch.testing.assert_close(upsampling.guided_filter(inputs, flat[:, :1], 2, 0.0), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_guided_by_itself_stays(channels):
    picture = drawn(2, channels, 8, 7)
    torch.testing.assert_close(upsampling.guided_filter(picture, picture, 2, 0.0), picture)


@pytest.mark.parametrize(("norm", "exponent"), [(1, 162), (2, 54)])
def test_no_feature_leaks_over_a_step_of_colour(norm, exponent):
    step = (torch.arange(12) >= 6).double().expand(1, 1, 6, 12)
    found = upsampling.joint_bilateral_filter(step, (0.2 + 0.6 * step).expand(1, 3, 6, 12), 2, SPACE, COLOUR, norm)
    assert (found - step).abs().max() < 25 * math.exp(-exponent)  # (3 x 0.6)^2 or 3 x 0.6^2, over 2 x 0.1^2


def naive_joint_bilateral(inputs, guidance, radius, sigma_space, sigma_colour, norm):
    result = torch.zeros_like(inputs)
    _, h, w = inputs.shape

    def reflected(index, side):
        index = abs(index)
        return index if index < side else 2 * (side - 1) - index

    for y in range(h):
        for x in range(w):
            total, weights = 0.0, 0.0
            for v in range(y - radius, y + radius + 1):
                for u in range(x - radius, x + radius + 1):
                    at = (slice(None), reflected(v, h), reflected(u, w))
                    change = (guidance[at] - guidance[:, y, x]).tolist()
                    far = sum(abs(c) for c in change) ** 2 if norm == 1 else sum(c * c for c in change)
                    weight = math.exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * sigma_space**2) - far / (2 * sigma_colour**2))
                    total, weights = total + weight * inputs[at], weights + weight
            result[:, y, x] = total / weights
    return result


@pytest.mark.parametrize("norm", [1, 2])
def test_the_joint_bilateral_filter_is_the_loop_over_its_window(norm):
    inputs, guidance = drawn(1, 2, 6, 5), 0.3 * drawn(1, 3, 6, 5, seed=1)
    expected = naive_joint_bilateral(inputs[0], guidance[0], 3, SPACE, COLOUR, norm)
    found = upsampling.joint_bilateral_filter(inputs, guidance, 3, SPACE, COLOUR, norm)[0]
    torch.testing.assert_close(found, expected)


def naive_guided(picture, guidance, radius, eps):
    h, w = picture.shape

    def window(y, x):
        return slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)

    slopes, offsets = torch.zeros_like(guidance), torch.zeros_like(picture)
    for y in range(h):
        for x in range(w):
            rows, columns = window(y, x)
            colours, values = guidance[:, rows, columns].flatten(1), picture[rows, columns].flatten()
            centred = colours - colours.mean(1, keepdim=True)
            covariance = centred @ centred.T / values.numel() + eps * torch.eye(len(colours), dtype=torch.float64)
            slopes[:, y, x] = torch.linalg.solve(covariance, centred @ (values - values.mean()) / values.numel())
            offsets[y, x] = values.mean() - slopes[:, y, x] @ colours.mean(1)
    result = torch.zeros_like(picture)
    for y in range(h):
        for x in range(w):
            rows, columns = window(y, x)
            mean_slope = slopes[:, rows, columns].flatten(1).mean(1)
            result[y, x] = mean_slope @ guidance[:, y, x] + offsets[rows, columns].mean()
    return result


@pytest.mark.parametrize("channels", [1, 3])
def test_the_guided_filter_is_the_loop_over_its_windows(channels):
    picture, guidance = drawn(1, 1, 7, 6), drawn(1, channels, 7, 6, seed=1)
    expected = naive_guided(picture[0, 0], guidance[0], 2, 1e-3)
    torch.testing.assert_close(upsampling.guided_filter(picture, guidance, 2, 1e-3)[0, 0], expected)


def bilateral(radius):
    return functools.partial(upsampling.joint_bilateral_filter, radius=radius, sigma_space=0.75 * radius, sigma_colour=COLOUR)


def guided(radius):
    return functools.partial(upsampling.guided_filter, radius=radius, eps=1e-3)


@pytest.mark.parametrize(("grid", "factor"), [((5, 4), 2), ((3, 7), 3), ((2, 3), 7), ((4, 4), 1)])
@pytest.mark.parametrize(("make", "windows"), [(bilateral, 1), (guided, 2)])
def test_filtering_the_indicators_of_cells_is_filtering_every_channel(make, windows, grid, factor):
    features, size = drawn(2, 60, *grid) - 0.5, (grid[0] * factor, grid[1] * factor)
    guidance, radius = drawn(2, 3, *size, seed=1), min(factor, min(size) - 1)
    expected = make(radius)(upsampling.bilinear(features, size), guidance)
    found = upsampling.through_cells(make(radius), windows * radius, features, guidance)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("make", [bilateral, guided])
def test_constant_features_stay_and_channels_do_not_mix(make):
    guidance = drawn(1, 3, 8, 8)
    flat = torch.full((1, 40, 4, 4), 2.5, dtype=torch.float64)
    torch.testing.assert_close(
        upsampling.through_cells(make(2), 4, flat, guidance), torch.full_like(guidance[:, :1], 2.5).expand(1, 40, 8, 8)
    )
    features = drawn(1, 60, 4, 4)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    found = upsampling.through_cells(make(2), 4, features, guidance)
    torch.testing.assert_close(upsampling.through_cells(make(2), 4, features[:, order], guidance), found[:, order])


def test_small_parts_give_what_one_part_gives(monkeypatch):
    features, guidance = drawn(1, 60, 6, 5), drawn(1, 3, 12, 10, seed=1)
    whole = upsampling.through_cells(guided(2), 4, features, guidance)
    monkeypatch.setattr(upsampling, "AT_ONCE", 1)
    torch.testing.assert_close(upsampling.through_cells(guided(2), 4, features, guidance), whole)


def test_a_window_wider_than_its_picture_is_refused():
    with pytest.raises(ValueError, match="more than 4 px"):
        upsampling.joint_bilateral_filter(drawn(1, 1, 4, 9), drawn(1, 3, 4, 9), 4, SPACE, COLOUR)
