"""Features of few dimensions and 8 bits: cosines near the exact ones, and an error that says how near."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from densebench.numerics.quantised import quantised


def grids(pictures=3, rows=5, columns=6, width=64, rank=12, seed=0):
    """Features near a subspace, with a common part as those of ViTs have."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, width, generator=generator)
    found = torch.randn(pictures, rows, columns, rank, generator=generator) @ basis
    return found + 3 * basis[0] + 0.05 * torch.randn(pictures, rows, columns, width, generator=generator)


def cosines(features):
    unit = F.normalize(features.flatten(0, 2).double(), dim=1)
    return unit @ unit.T


def read(result):
    codes = result.codes.flatten(0, 2).double()
    return result.scale**2 * codes @ codes.T


def distances(result, features):
    """Errors of cosines of different patches, by a loop."""
    found, exact = read(result), cosines(features)
    return [abs(float(found[i, j] - exact[i, j])) for i in range(len(exact)) for j in range(len(exact)) if i != j]


def test_cosines_of_codes_are_near_those_of_features():
    features = grids()
    result = quantised(features, 16)
    assert result.codes.shape == (3, 5, 6, 16)
    assert result.codes.dtype == torch.int8
    assert max(distances(result, features)) < 0.01
    assert max(distances(quantised(features, 4), features)) > 0.1


def test_the_error_is_that_of_all_pairs():
    features = grids()
    result, errors = quantised(features, 6), distances(quantised(features, 6), features)
    assert result.mean_error == pytest.approx(sum(errors) / len(errors))
    assert result.largest_error == pytest.approx(max(errors))


def test_orthogonal_opposite_and_equal_patches():
    features = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-2.0, 0.0], [3.0, 0.0]]).view(1, 2, 2, 2)
    found = read(quantised(features))
    expected = torch.tensor([[1.0, 0, -1, 1], [0, 1, 0, 0], [-1, 0, 1, -1], [1, 0, -1, 1]]).double()
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_the_length_of_features_does_not_matter():
    features = grids()
    lengths = torch.linspace(0.5, 8, 90).view(3, 5, 6, 1)
    torch.testing.assert_close(read(quantised(features * lengths)), read(quantised(features)), atol=1e-3, rtol=0)


def test_codes_use_the_range_and_are_the_same_each_time():
    features = grids()
    result = quantised(features, 16)
    assert result.codes.abs().max() == 127
    assert torch.equal(result.codes, quantised(features.clone(), 16).codes)


def test_no_more_dimensions_than_features():
    assert quantised(grids(width=7)).codes.shape == (3, 5, 6, 7)


def test_patches_of_zeros_and_a_single_patch():
    result = quantised(torch.zeros(1, 2, 2, 3))
    assert not result.codes.any()
    assert result.largest_error == 0.0
    assert quantised(torch.ones(1, 1, 1, 3)).mean_error == 0.0
