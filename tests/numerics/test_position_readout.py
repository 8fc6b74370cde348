"""Positions read from features: exact cases, scikit-learn's ridge regression, invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from densebench.numerics.position_readout import position_readout

ROWS, COLUMNS = 5, 4


def grids(count, width=6, strength=1.0, seed=0):
    """Features of noise, to which row and column are added along two directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2, width, generator=torch.Generator().manual_seed(99)).double()
    row, column = torch.meshgrid(torch.arange(ROWS).double(), torch.arange(COLUMNS).double(), indexing="ij")
    place = strength * (row[..., None] * directions[0] + column[..., None] * directions[1])
    return torch.randn(count, ROWS, COLUMNS, width, dtype=torch.float64, generator=generator) + place


def naive(train, test, l2):
    """Ridge regression by scikit-learn; its penalty is on the sum of squares."""
    mean = train.flatten(0, 2).mean(dim=0)
    scale = math.sqrt(float(((train - mean) ** 2).mean()))
    of = [np.array([[r, c] for _ in part for r in range(ROWS) for c in range(COLUMNS)], float) for part in (train, test)]
    units = np.array([ROWS, COLUMNS])
    model = Ridge(alpha=l2 * len(of[0])).fit(train.flatten(0, 2).numpy() / scale, of[0] / units)
    return r2_score(of[1] / units, model.predict(test.flatten(0, 2).numpy() / scale), multioutput="raw_values")


@pytest.mark.parametrize("width", [6, 90], ids=["fewer features", "more features"])
@pytest.mark.parametrize("l2", [1e-6, 0.2])
def test_readout_equals_ridge_regression_of_another_library(width, l2):
    train, test = grids(3, width, 0.5), grids(2, width, 0.5, seed=1)
    assert position_readout(train, test, l2) == pytest.approx(naive(train, test, l2), rel=1e-6)


def test_positions_that_features_hold_are_read():
    exact = grids(1, strength=1.0) - grids(1, strength=0.0)
    found = position_readout(exact, exact, 1e-9)
    assert found == pytest.approx((1.0, 1.0), abs=1e-6)


def test_a_column_that_features_do_not_hold_is_not_read():
    only_rows = torch.arange(float(ROWS)).view(1, ROWS, 1, 1).expand(3, ROWS, COLUMNS, 1)
    row, column = position_readout(only_rows, only_rows, 1e-9)
    assert row == pytest.approx(1.0, abs=1e-6)
    assert column == pytest.approx(0.0, abs=1e-9)


def test_noise_holds_no_position():
    row, column = position_readout(grids(60, 3, 0.0), grids(60, 3, 0.0, seed=1))
    assert abs(row) < 0.03
    assert abs(column) < 0.03


def test_what_is_learnt_by_heart_is_not_counted():
    train = grids(1, 60, 0.0)  # more features than patches
    assert position_readout(train, train, 1e-6).row > 0.99
    assert position_readout(train, grids(3, 60, 0.0, seed=1), 1e-6).row < 0.2


def test_scale_shift_and_basis_do_not_matter():
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    train, test = grids(3), grids(2, seed=1)
    expected = position_readout(train, test)
    assert position_readout(train * 1000 @ turn + 5, test * 1000 @ turn + 5) == pytest.approx(expected, rel=1e-7)


def test_the_same_images_twice_change_nothing():
    train, test = grids(3), grids(2, seed=1)
    assert position_readout(train.repeat(2, 1, 1, 1), test.repeat(3, 1, 1, 1)) == pytest.approx(position_readout(train, test))


def test_features_that_do_not_vary_are_as_good_as_a_constant():
    same = torch.full((2, ROWS, COLUMNS, 3), 0.1)
    assert position_readout(same, same) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_a_side_of_one_patch_and_no_images_have_no_value():
    row, column = position_readout(grids(3)[:, :1], grids(2)[:, :1])
    assert math.isnan(row)
    assert math.isfinite(column)
    assert all(math.isnan(value) for value in position_readout(grids(3), grids(2)[:0]))
    assert all(math.isnan(value) for value in position_readout(grids(3)[:0], grids(2)))


def test_a_ridge_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        position_readout(grids(2), grids(2), 0.0)
