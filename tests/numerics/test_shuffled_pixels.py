"""The shuffle of frosted glass and other sums, against loops that go pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from corruption_cases import picture

from densebench.numerics.corruptions.blur import shuffled, smear
from densebench.numerics.corruptions.weather import plasma


def shuffled_by_loops(values, step, offsets):
    """One pass: each pixel from the last to the first takes the value that its neighbour has by then."""
    values = values.copy()
    height, width = values.shape
    for i, row in enumerate(range(height - step, step, -1)):
        for j, column in enumerate(range(width - step, step, -1)):
            right, down = offsets[i, j]
            values[row, column] = values[row + down, column + right]
    return values


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("size", [(32, 33), (9, 40)])
def test_a_pass_is_that_of_a_loop(size, step):
    height, width = size
    offsets = np.random.default_rng(step).integers(-step, step, (height - 2 * step, width - 2 * step, 2))
    values = np.arange(height * width)
    expected = shuffled_by_loops(values.reshape(size), step, offsets).ravel()
    assert (values[shuffled(height, width, step, offsets)] == expected).all()


def test_pixels_are_copied_not_swapped():
    offsets = np.zeros((4, 4, 2), np.int64)
    offsets[-1, -1] = (-1, 0)  # the last visit: row 2, column 2 takes the value of column 1
    found = shuffled(6, 6, 1, offsets).reshape(6, 6)
    assert found[2, 2] == 2 * 6 + 1 and found[2, 1] == 2 * 6 + 1


def test_the_first_rows_and_columns_are_never_a_centre():
    offsets = np.full((28, 28, 2), -2)
    found = shuffled(32, 32, 2, offsets).reshape(32, 32)
    kept = np.arange(1024).reshape(32, 32)
    assert (found[:3] == kept[:3]).all() and (found[:, :3] == kept[:, :3]).all()
    assert (found[-1] == kept[-1]).all() and (found[3:-1, 3:-1] != kept[3:-1, 3:-1]).all()


def test_a_chain_of_copies_is_followed_to_its_end():
    offsets = np.zeros((28, 28, 2), np.int64)
    offsets[..., 0] = 1  # each pixel takes the right neighbour's value, which by then is that of the pixel outside
    found = shuffled(32, 32, 2, offsets).reshape(32, 32)
    assert (found[3:31, 3:31] == np.arange(3, 31)[:, None] * 32 + 31).all()


@pytest.mark.parametrize("angle", [-120.0, -7.0, 45.0])
def test_motion_is_a_weighted_sum_of_shifted_copies(angle):
    values, radius, sigma = picture().astype(float), 6, 3.0
    height, width = values.shape[:2]
    weights = np.array([math.exp(-(step**2) / (2 * sigma**2)) for step in range(2 * radius + 1)])
    expected = np.zeros_like(values)
    for step, weight in enumerate(weights / weights.sum()):
        up = math.ceil(step * math.sin(math.radians(angle)) - 0.5)
        left = math.ceil(step * math.cos(math.radians(angle)) - 0.5)
        for row in range(height):
            for column in range(width):
                source = min(max(row + up, 0), height - 1), min(max(column + left, 0), width - 1)
                expected[row, column] += weight * values[source]
    assert smear(values, radius, sigma, angle) == pytest.approx(expected)


def test_plasma_is_that_of_a_loop_over_points():
    side, decay = 8, 1.7
    expected, generator = np.zeros((side, side)), np.random.default_rng(4)
    step, strength = side, 100.0
    while step >= 2:
        half = step // 2
        points = [(row, column) for row in range(half, side, step) for column in range(half, side, step)]
        drawn = generator.uniform(-strength, strength, (side // step, side // step)).ravel()
        for (row, column), wibble in zip(points, drawn, strict=True):
            corners = [expected[(row + a) % side, (column + b) % side] for a in (-half, half) for b in (-half, half)]
            expected[row, column] = sum(corners) / 4 + strength * wibble
        for first, second in ((0, half), (half, 0)):
            drawn = generator.uniform(-strength, strength, (side // step, side // step)).ravel()
            points = [(row, column) for row in range(first, side, step) for column in range(second, side, step)]
            for (row, column), wibble in zip(points, drawn, strict=True):
                near = [((row + a) % side, (column + b) % side) for a, b in ((-half, 0), (half, 0), (0, -half), (0, half))]
                expected[row, column] = sum(expected[place] for place in near) / 4 + strength * wibble
        step, strength = half, strength / decay
    expected -= expected.min()
    assert plasma(side, decay, np.random.default_rng(4)) == pytest.approx(expected / expected.max())
