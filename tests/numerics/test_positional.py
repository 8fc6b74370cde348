"""Directions of features that encode positions: exact cases, numpy's own singular vectors, and what a projection must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densebench.numerics.positional import position_share, positional_directions, without_directions

POSITIONS, WIDTH = 20, 7


def grids(count=3, seed=0):
    return torch.randn(count, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(seed))


def circle(count=1):
    """Features of one content along the first axis, and a position along the next two, all of one length."""
    angle = torch.arange(POSITIONS).double() / POSITIONS * 2 * torch.pi
    rows = torch.stack([torch.full_like(angle, 2.0), angle.cos(), angle.sin(), *4 * [torch.zeros_like(angle)]], dim=1)
    return rows.expand(count, POSITIONS, WIDTH)


@pytest.mark.parametrize("most", [1, 3, 6])
def test_directions_are_the_leading_singular_vectors_of_centred_means(most):
    found = positional_directions(grids(), most)
    rows = np.zeros((POSITIONS, WIDTH))
    for image in grids().double().numpy():
        for number, feature in enumerate(image):
            rows[number] += feature / np.sqrt((feature**2).sum()) / 3
    vectors = np.linalg.svd(rows - rows.mean(axis=0))[2][:most].T
    np.testing.assert_allclose(found @ found.T, vectors @ vectors.T, atol=1e-10)  # whatever the signs


@pytest.mark.parametrize("most", [1, 3, 6])
def test_what_removes_them_is_a_projection(most):
    found = positional_directions(grids(), most)
    projector = torch.eye(WIDTH).double() - found @ found.T
    torch.testing.assert_close(projector, projector.T, rtol=0, atol=1e-15)
    torch.testing.assert_close(projector @ projector, projector, rtol=0, atol=1e-14)
    assert float(projector.trace()) == pytest.approx(WIDTH - most, abs=1e-12)


def test_fewer_directions_are_prefixes_of_more():
    assert torch.equal(positional_directions(grids(), 2), positional_directions(grids(), 5)[:, :2])


def test_no_more_directions_come_back_than_there_are():
    assert positional_directions(circle(), 6).shape == (WIDTH, 2)
    assert positional_directions(torch.ones(2, POSITIONS, WIDTH), 6).shape == (WIDTH, 0)
    assert positional_directions(torch.zeros(2, POSITIONS, WIDTH), 6).shape == (WIDTH, 0)
    assert positional_directions(grids()[:, :4], 6).shape == (WIDTH, 3)  # of four positions, about their mean
    assert positional_directions(circle().float(), 6).shape == (WIDTH, 2), "rounding is no direction"


def test_a_position_that_is_added_to_a_content_is_removed_and_the_content_is_kept():
    left = without_directions(circle(2), positional_directions(circle(), 2))
    expected = F.one_hot(torch.zeros(2, POSITIONS, dtype=torch.long), WIDTH).double()
    torch.testing.assert_close(left, expected, rtol=0, atol=1e-12)


def test_removing_equals_a_loop_over_features_and_directions():
    directions = positional_directions(grids(), 3)
    found = without_directions(grids(2, seed=1), directions)
    for image, of_image in zip(grids(2, seed=1).double(), found, strict=True):
        for feature, left in zip(image, of_image, strict=True):
            rest = feature / feature.norm()
            for direction in directions.T:
                rest = rest - (rest @ direction) * direction
            torch.testing.assert_close(left, rest / rest.norm(), rtol=0, atol=1e-12)


def test_removing_twice_is_removing_once():
    directions = positional_directions(grids(), 3)
    once = without_directions(grids(2, seed=1).double(), directions)
    torch.testing.assert_close(without_directions(once, directions), once, rtol=0, atol=1e-12)


def test_scale_does_not_matter_and_a_turn_turns_the_result():
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))).Q
    expected = without_directions(grids(2, seed=1).double(), positional_directions(grids(), 3)) @ turn
    found = without_directions(9 * grids(2, seed=1).double() @ turn, positional_directions(4 * grids().double() @ turn, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_feature_that_is_all_position_becomes_zero_and_not_rounding_error(dtype):
    directions = torch.linalg.qr(torch.randn(WIDTH, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))).Q
    features = torch.stack([directions[:, 0] * 3, directions.sum(dim=1), torch.zeros(WIDTH)]).to(dtype)
    assert not without_directions(features, directions.float()).any()
    assert not without_directions(grids().to(dtype), torch.eye(WIDTH)).any()


def share(features):
    return position_share(features.sum(dim=0), features.square().sum(), len(features))


def test_the_share_of_the_position_is_that_of_an_analysis_of_variance():
    features = grids(5).double() + 2 * torch.randn(POSITIONS, WIDTH, generator=torch.Generator().manual_seed(3)).double()
    rows, mean = features.flatten(0, 1).numpy(), features.mean(dim=(0, 1)).numpy()
    between = sum(((image.numpy() - mean) ** 2).sum() for image in features.mean(dim=0)) / POSITIONS
    whole = sum(((row - mean) ** 2).sum() for row in rows) / len(rows)
    assert share(features) == pytest.approx(between / whole, rel=1e-10)


def test_the_share_is_one_for_positions_and_about_one_in_n_for_noise():
    assert share(circle(3)) == pytest.approx(1.0, abs=1e-12)
    noise = torch.randn(50, 400, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    assert share(noise) == pytest.approx(1 / 50, rel=0.1)
    assert share(torch.full((3, POSITIONS, WIDTH), 0.3).double()) == 0.0
