"""Pixels equal those of the reference, given the same random numbers.

corruption_reference.json has the sums and every 80th value of what imagecorruptions 1.1.2 made of the picture after
np.random.seed(level). One thing was changed: scikit-image's salt and pepper, which no seed of numpy reaches today, drew from
np.random, as it did when the package was written.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from corruption_cases import Seeded, photographs, picture

from densebench.numerics.corruptions import CORRUPTIONS, DETERMINISTIC, TOLERANCES, corrupt

REFERENCE = json.loads((Path(__file__).parent / "corruption_reference.json").read_text())
VALUES = picture().size


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "jpeg-compression"])
def test_values_are_those_of_the_reference_given_its_random_numbers(name):
    for level, expected in enumerate(REFERENCE[name], 1):
        found = corrupt(picture(), name, level, Seeded(level), photographs()).astype(int)
        assert np.abs(found.reshape(-1)[::80] - expected["every_80th"]).max() <= TOLERANCES[name], level
        assert abs(found.sum() - expected["sum"]) <= 0.1 * VALUES * TOLERANCES[name], level  # a tenth of the values at most


def test_jpeg_is_near_the_reference_for_any_version_of_the_codec():
    for level, expected in enumerate(REFERENCE["jpeg-compression"], 1):
        found = corrupt(picture(), "jpeg-compression", level, Seeded(level)).astype(int)
        assert np.abs(found.reshape(-1)[::80] - expected["every_80th"]).mean() < 2, level


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_a_function_of_its_arguments_alone(name):
    before = picture()
    first = corrupt(before, name, 3, np.random.default_rng(1), photographs())
    np.random.seed(5)
    again = corrupt(before, name, 3, np.random.default_rng(1), photographs())
    assert first.dtype == np.uint8 and first.shape == before.shape
    assert (first == again).all() and (before == picture()).all() and (first != before).any()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_random_corruptions_depend_on_the_generator(name):
    first, other = (corrupt(picture(), name, 3, np.random.default_rng(seed), photographs()) for seed in (1, 2))
    assert (first == other).all() == (name in DETERMINISTIC)


@pytest.mark.parametrize("name", sorted({*CORRUPTIONS} - {"elastic-transform", "frost", "snow", "jpeg-compression"}))
def test_a_higher_level_is_farther_from_the_picture(name):
    def distance(level):
        return np.abs(corrupt(picture(), name, level, Seeded(0), photographs()).astype(int) - picture()).mean()

    assert distance(5) > distance(1)
