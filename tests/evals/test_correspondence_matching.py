"""Matching: closed forms, plain loops, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from densebench.evals.correspondence.matching import Choice, best, chosen, distance, features_at, similarities

EVERYWHERE = torch.ones(4, 5, dtype=torch.bool)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_features_at_whole_cells_are_those_of_the_patch():
    grid = noise(4, 5, 3)
    assert torch.equal(features_at(grid, torch.tensor([[4.0, 3.0], [0.0, 2.0]])), torch.stack([grid[3, 4], grid[2, 0]]))


@pytest.mark.parametrize("corners", [True, False])
def test_features_between_cells_are_those_of_grid_sample(corners):
    grid, points = noise(4, 5, 3), torch.rand(20, 2, generator=torch.Generator().manual_seed(1))
    sides = torch.tensor([5.0, 4.0])
    cells = points * (sides - 1) if corners else points * sides - 0.5
    inside = cells.clamp(min=torch.zeros(2), max=sides - 1)
    where = (2 * points - 1)[None, None]
    expected = F.grid_sample(grid.movedim(2, 0)[None], where, "bilinear", "border", align_corners=corners)[0, :, 0].T
    assert features_at(grid, inside) == pytest.approx(expected, abs=1e-5)


def test_similarities_are_dot_products_of_allowed_patches():
    queries, grid = noise(3, 6), noise(4, 5, 6, seed=1)
    allowed = EVERYWHERE.clone()
    allowed[:, 4] = False
    found = similarities(queries, grid, allowed)
    for k in range(3):
        for row in range(4):
            for column in range(4):
                assert found[k, row, column] == pytest.approx(float(queries[k] @ grid[row, column]), abs=1e-5)
    assert (found[:, :, 4] == -torch.inf).all()


def test_of_equal_similarities_the_first_counts_row_by_row():
    similarity = torch.zeros(3, 4, 5)
    similarity[0, 2, 1] = similarity[0, 2, 3] = similarity[0, 3, 0] = 1
    similarity[1, 3, 4] = 1
    cells, tied = best(similarity)
    assert cells.tolist() == [[1, 2], [4, 3], [0, 0]] and tied.tolist() == [True, False, True]


def test_a_kernel_of_three_equal_similarities():
    """The first wins; a Gaussian of 7 cells, then a softmax at 0.04: weights 1, .7758, .3679."""
    row = torch.ones(1, 1, 3)
    found, _ = chosen(row, Choice(7, "gaussian", 0.04))
    weights = [math.exp((math.exp(-(d**2) / 98) - 1) / 0.04) for d in range(3)]
    assert weights == pytest.approx([1, 0.7758, 0.3679], abs=2e-3)
    assert float(found[0, 0]) == pytest.approx(0.7052, abs=1e-3) and float(found[0, 1]) == 0


def loops(similarity, choice):
    """The weighted mean, patch by patch."""
    rows, columns = similarity.shape
    flat = [(float(similarity[y, x]), -y * columns - x) for y in range(rows) for x in range(columns)]
    peak = -max(flat)[1]
    py, px = divmod(peak, columns)
    total = sx = sy = 0.0
    for y in range(rows):
        for x in range(columns):
            value = float(similarity[y, x])
            if value == -math.inf:
                continue
            if choice.window:
                far = max(abs(y - py), abs(x - px)) > choice.window
                if choice.outside == "gaussian":
                    value *= math.exp(-((y - py) ** 2 + (x - px) ** 2) / (2 * choice.window**2))
                elif far and choice.outside == "zero":
                    value = 0.0
                elif far:
                    continue
            weight = math.exp(value / choice.temperature)
            total, sx, sy = total + weight, sx + weight * x, sy + weight * y
    return [sx / total, sy / total]


@pytest.mark.parametrize("outside", ["left-out", "zero", "gaussian"])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_soft_choices_are_plain_loops(window, outside):
    similarity, choice = noise(6, 4, 5).tanh(), Choice(window, outside, 0.2)
    similarity[:, 3] = -torch.inf
    found, _ = chosen(similarity, choice)
    assert found.tolist() == [pytest.approx(loops(each, choice), abs=1e-4) for each in similarity]


def test_a_small_window_at_a_low_temperature_is_the_best_patch():
    similarity = noise(5, 4, 5)
    assert chosen(similarity, Choice(1, "left-out", 1e-3))[0] == pytest.approx(chosen(similarity, Choice())[0], abs=1e-2)


def test_zeros_outside_pull_towards_the_middle():
    """As in GeoAware-SC: what lies outside the window has similarity 0, which at a temperature of 0.02 still weighs."""
    similarity = torch.full((1, 1, 60), 0.0)
    similarity[0, 0, 0] = 0.05
    kept, pulled = (chosen(similarity, Choice(5, outside, 0.02))[0][0, 0] for outside in ("left-out", "zero"))
    assert float(kept) < 3 < 20 < float(pulled)


def test_distances_of_objects_are_plain_loops():
    source, target = (F.normalize(noise(4, 5, 6, seed=seed), dim=2) for seed in (0, 1))
    inside, allowed = noise(4, 5, seed=2) > 0, noise(4, 5, seed=3) > 0
    each = [min(float((a - b).norm()) for b in target[allowed]) for a in source[inside]]
    assert float(distance(source, inside, target, allowed)) == pytest.approx(sum(each) / len(each), abs=1e-3)


def test_an_object_is_nearest_to_itself():
    source = F.normalize(noise(4, 5, 6), dim=2)
    assert float(distance(source, EVERYWHERE, source, EVERYWHERE)) < 1e-3
