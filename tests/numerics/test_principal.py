"""Principal components as colours, and the foreground: hand-made cases, a loop by another decomposition, invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from densebench.numerics.principal import foreground_side, otsu, principal_colours, principal_components


def tokens(count=40, width=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    skewed = torch.randn(count, width, generator=generator) ** 2  # so that signs are certain
    return skewed * torch.linspace(3, 0.2, width) + 5


def rotation(width, seed=1):
    return torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).Q


def naive_components(rows, count=3):
    """Components by numpy's singular vectors, each turned so that the sum of its cubes is positive."""
    rows = rows.double().numpy()
    _, _, axes = np.linalg.svd(rows - rows.mean(0))
    found = []
    for axis in axes[:count]:
        component = np.array([float(np.dot(row - rows.mean(0), axis)) for row in rows])
        found.append(component if (component**3).sum() > 0 else -component)
    return torch.from_numpy(np.stack(found, axis=1))


def test_components_of_points_on_two_axes():
    rows = torch.tensor([[9.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 5.0]])  # mean (3, 2)
    found = principal_components(rows, 2)
    torch.testing.assert_close(found.var(dim=0).sum(), rows.double().var(dim=0).sum())
    assert found[0, 0] == found[:, 0].max()  # the long arm is on the positive side
    torch.testing.assert_close(found[1], found[2])
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("count", "width"), [(40, 7), (6, 30)], ids=["more tokens", "more features"])
def test_components_equal_those_of_another_decomposition(count, width):
    rows = tokens(count, width)
    torch.testing.assert_close(principal_components(rows), naive_components(rows), rtol=1e-6, atol=1e-6)


def test_components_do_not_depend_on_the_basis_of_the_features():
    rows = tokens().double()
    torch.testing.assert_close(principal_components(rows @ rotation(7)), principal_components(rows), rtol=1e-8, atol=1e-8)


def test_colours_do_not_depend_on_scale_and_shift():
    rows = tokens().double()
    assert torch.equal(principal_colours(rows * 0.01 - 3), principal_colours(rows))


def test_colours_do_not_depend_on_the_order_of_tokens():
    rows, order = tokens().double(), torch.randperm(40, generator=torch.Generator().manual_seed(3))
    distance = principal_colours(rows[order]).int() - principal_colours(rows)[order].int()
    assert distance.abs().max() <= 1


def test_an_artefact_does_not_take_the_range_of_the_colours():
    rows = torch.zeros(1000, 3)
    rows[:, 0] = torch.linspace(0, 1, 1000)
    rows[:3, 0] = 1000.0
    colours = principal_colours(rows)[3:, 0]
    assert colours.unique().numel() > 200


def test_percentiles_are_the_ends_of_the_range():
    rows = torch.zeros(101, 1)
    rows[:, 0] = torch.arange(101) ** 1.2  # skewed to the right: the sign is that of the values
    red = principal_colours(rows)[:, 0]
    assert red[:2].tolist() == [0, 0]
    assert red[99:].tolist() == [255, 255]
    assert 0 < red[2] < red[98] < 255
    assert principal_colours(rows)[:, 1:].unique().tolist() == [128]


@pytest.mark.parametrize("rows", [torch.full((5, 4), 0.1), torch.ones(1, 3), torch.zeros(4, 1)], ids=["constant", "one", "zero"])
def test_features_that_do_not_vary_are_grey(rows):
    assert principal_colours(rows).unique().tolist() == [128]


def test_no_tokens_have_no_colours():
    assert principal_colours(torch.zeros(0, 4)).shape == (0, 3)


@pytest.mark.parametrize("shape", [(2, 5), (9, 2), (1, 1), (3, 3)], ids=str)
def test_few_tokens_or_features_do(shape):
    assert principal_colours(tokens(*shape)).shape == (shape[0], 3)


def test_the_foreground_decides_its_colours_and_the_rest_is_black():
    rows = tokens().double()
    inside = torch.arange(40) % 2 == 0
    changed = torch.where(inside[:, None], rows, rows * 7 + 2)
    found = principal_colours(rows, inside)
    assert torch.equal(found, principal_colours(changed, inside))
    assert torch.equal(found[inside], principal_colours(rows[inside]))
    assert found[~inside].unique().tolist() == [0]
    assert not torch.equal(found[inside], principal_colours(rows)[inside])


def test_the_foreground_decides_signs_whatever_lies_outside():
    rows = torch.tensor([[0.0], [0.0], [0.0], [9.0], [-100.0]])
    among = torch.tensor([True, True, True, True, False])
    assert principal_components(rows, 1, among)[:, 0].tolist() == pytest.approx([-2.25, -2.25, -2.25, 6.75, -102.25])


def test_a_foreground_of_nothing_is_black():
    assert principal_colours(tokens(), torch.zeros(40, dtype=torch.bool)).unique().tolist() == [0]


def naive_otsu(values):
    """The least sum of squares inside two parts, over all thresholds half-way between neighbours."""
    ordered = sorted(set(values.tolist()))
    cuts = [(a + b) / 2 for a, b in itertools.pairwise(ordered)]

    def inside(cut):
        parts = [values[values > cut], values[values <= cut]]
        return sum(float(((part - part.mean()) ** 2).sum()) for part in parts)

    return min(cuts, key=inside)


@pytest.mark.parametrize("seed", range(4))
def test_otsu_equals_a_search_over_all_thresholds(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.cat([torch.randn(30, generator=generator), torch.randn(9, generator=generator) + 4]).round(decimals=1).double()
    assert otsu(values) == pytest.approx(naive_otsu(values))


def test_otsu_of_equal_values_is_infinite():
    assert otsu(torch.full((4,), 2.0)) == float("inf")
    assert otsu(torch.tensor([1.0])) == float("inf")


def scene(sign=1.0):
    """Two pictures with an object that does not touch the borders, but for one patch."""
    mask = torch.zeros(2, 6, 8, dtype=torch.bool)
    mask[0, 1:5, 2:6] = True
    mask[1, 0:4, 3:6] = True
    direction = torch.tensor([1.0, -2.0, 0.5])
    noise = torch.randn(2, 6, 8, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    return sign * mask[..., None] * direction * 3 + noise, mask


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_foreground_is_the_side_that_keeps_off_the_borders(sign):
    grids, mask = scene(sign)
    assert torch.equal(foreground_side(grids), mask)


def test_a_large_object_that_keeps_off_the_borders_is_foreground():
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 1:8, 1:8] = True  # 49 of 81
    assert torch.equal(foreground_side(mask[..., None].float()), mask)


def test_a_small_thing_in_a_corner_is_background():
    """All of its three patches lie on the border, of the rest 25 of 78: shares count, not numbers."""
    corner = torch.zeros(1, 9, 9, dtype=torch.bool)
    corner[0, 0, :2] = corner[0, 1, 0] = True
    assert torch.equal(foreground_side(corner[..., None].float()), ~corner)


@pytest.mark.parametrize("shape", [(1, 3, 3, 2), (2, 1, 1, 4), (1, 1, 5, 3)], ids=str)
def test_without_two_sides_all_is_foreground(shape):
    assert foreground_side(torch.full(shape, 0.3)).all()
