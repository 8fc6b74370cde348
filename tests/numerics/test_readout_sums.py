"""Sums from which a map that reads positions is fitted: they give what all features at once give, and its own directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from densebench.numerics.position_readout import ReadoutSums, centres, position_readout
from densebench.numerics.positional import without_directions

SHAPE, WIDTH = (5, 4), 6
PATCHES = SHAPE[0] * SHAPE[1]


def features(count, strength=0.5, width=WIDTH, seed=0, patches=PATCHES):
    """Noise to which row and column are added along two directions, `[n patches d]`."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2, width, generator=torch.Generator().manual_seed(99)).double()
    noise = torch.randn(count, patches, width, generator=generator).double()
    return noise if not strength else noise + strength * (10 * centres(SHAPE) @ directions)


def r2(fit, read, l2, shape=SHAPE):
    """R^2 of rows and columns by the sums of a fit."""
    sums = ReadoutSums.of(fit, shape)
    target = centres(shape)
    missed = (read - sums.centre()) @ sums.fitted(l2) - target
    return tuple((1 - missed.square().sum(dim=(0, 1)) / (len(read) * target.square().sum(dim=0))).tolist())


@pytest.mark.parametrize("width", [WIDTH, 90], ids=["fewer dimensions than patches", "more"])
@pytest.mark.parametrize("l2", [1e-3, 0.2])
def test_sums_give_the_map_of_all_features_at_once(width, l2):
    fit, read = features(3, width=width), features(2, width=width, seed=1)
    expected = position_readout(fit.view(3, *SHAPE, width), read.view(2, *SHAPE, width), l2)
    assert r2(fit, read, l2) == pytest.approx(expected, rel=1e-7)


def test_the_map_is_that_of_least_squares_with_positions_from_minus_one_to_one():
    fit, read, l2 = features(3), features(2, seed=1), 1e-3
    rows = fit.flatten(0, 1).numpy()
    variance = np.mean([np.mean((column - column.mean()) ** 2) for column in rows.T])
    target = np.array(
        [[-1 + 2 * (r + 0.5) / SHAPE[0], -1 + 2 * (c + 0.5) / SHAPE[1]] for r in range(SHAPE[0]) for c in range(SHAPE[1])]
    )
    ones, root = np.ones((len(rows), 1)), np.sqrt(l2 * variance * len(rows))
    left = np.block([[rows, ones], [root * np.eye(WIDTH), np.zeros((WIDTH, 1))]])
    right = np.concatenate([np.tile(target, (3, 1)), np.zeros((WIDTH, 2))])
    solved = np.linalg.lstsq(left, right, rcond=None)[0]
    predicted = read.flatten(0, 1).numpy() @ solved[:-1] + solved[-1]
    truth = np.tile(target, (2, 1))
    expected = [1 - ((predicted - truth)[:, i] ** 2).sum() / ((truth - truth.mean(axis=0))[:, i] ** 2).sum() for i in (0, 1)]
    assert r2(fit, read, l2) == pytest.approx(expected, rel=1e-7)


def test_sums_of_parts_add_up():
    whole, parts = ReadoutSums.of(features(5), SHAPE), [ReadoutSums.of(part, SHAPE) for part in features(5).split(2)]
    for one, other in zip(whole, parts[0].plus(parts[1]).plus(parts[2]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_features_that_do_not_vary_give_a_map_of_zeros():
    for value in (0.0, 0.378):
        sums = ReadoutSums.of(torch.full((3, PATCHES, WIDTH), value), SHAPE)
        assert not sums.fitted(1e-3).any()
        assert sums.directions(1e-3, 4).shape == (WIDTH, 0)


def test_rows_and_columns_among_the_channels_are_read_exactly_and_not_at_all_without_them():
    plain = torch.cat([centres(SHAPE), torch.zeros(PATCHES, 1).double()], dim=1).expand(3, PATCHES, 3)
    assert r2(plain, plain, 1e-12) == pytest.approx((1.0, 1.0), abs=1e-9)
    directions = ReadoutSums.of(plain, SHAPE).directions(1e-12, 3)
    assert directions.shape == (3, 2), "there is nothing else to remove"
    left = without_directions(plain, directions)
    assert r2(left, left, 1e-3) == (0.0, 0.0)


def test_white_noise_costs_its_dimensions():
    patches, width, shape = 400, 40, (20, 20)
    fit, read = (features(10, 0.0, width, seed, patches) for seed in (1, 2))
    found = r2(fit, read, 1e-9, shape)
    assert found == pytest.approx((-width / 4000, -width / 4000), abs=0.006)


def test_directions_are_orthonormal_and_the_first_two_span_the_map():
    sums = ReadoutSums.of(features(3), SHAPE)
    directions, weights = sums.directions(1e-3, 5), sums.fitted(1e-3)
    torch.testing.assert_close(directions.T @ directions, torch.eye(5).double(), rtol=0, atol=1e-12)
    first = directions[:, :2]
    torch.testing.assert_close(first @ (first.T @ weights), weights, rtol=0, atol=1e-12)
    assert torch.equal(sums.directions(1e-3, 3), directions[:, :3])


def test_later_directions_are_those_of_maps_fitted_on_what_is_left():
    fit = features(3)
    first = ReadoutSums.of(fit, SHAPE).directions(1e-9, 4)
    left = fit - fit @ first[:, :2] @ first[:, :2].T
    again = np.linalg.lstsq(
        (left - left.mean(dim=(0, 1))).flatten(0, 1).numpy(), centres(SHAPE).repeat(3, 1).numpy(), rcond=1e-10
    )[0]
    span = np.linalg.qr(again)[0]
    np.testing.assert_allclose(first[:, 2:] @ first[:, 2:].T, span @ span.T, atol=1e-5)


def test_what_is_removed_cannot_be_read():
    fit, read = features(20, 1.0), features(10, 1.0, seed=1)
    before = r2(fit, read, 1e-3)
    directions = ReadoutSums.of(fit, SHAPE).directions(1e-3, 4)
    after = r2(fit - fit @ directions @ directions.T, read - read @ directions @ directions.T, 1e-3)
    assert min(before) > 0.9
    assert max(after) < 0.1


def test_a_random_network_with_zero_padding_knows_positions_near_the_border_alone():
    images = torch.randn(24, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 24, 3, padding=1))
    with torch.no_grad():
        maps = network(images + 1.0).movedim(1, -1).double()
    inside = maps[:, 2:-2, 2:-2]
    assert min(position_readout(maps[:12], maps[12:])) > 0.05
    assert -0.01 < min(position_readout(inside[:12], inside[12:])) <= max(position_readout(inside[:12], inside[12:])) < 0
