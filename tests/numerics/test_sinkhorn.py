"""Sinkhorn and the rescaling of costs: hand-computed plans, a loop in plain Python, invariances."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.numerics.sinkhorn import extremes, rescaled, sinkhorn

COST = torch.tensor([[[0.0, 1.0], [0.2, 0.6], [1.0, 0.1]]])
ROWS = torch.tensor([[0.5, 0.3, 0.2]])
COLUMNS = torch.tensor([[0.6, 0.4]])


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problems(p, n, k, seed=0):
    rows, columns = uniform(p, n, seed=seed + 1) + 0.1, uniform(p, k, seed=seed + 2) + 0.1
    return uniform(p, n, k, seed=seed), rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)


def naive(cost, rows, columns, sharpness=20.0, iterations=5):
    """One problem in plain Python: rows first, columns last."""
    n, k = len(rows), len(columns)
    plan = [[math.exp(-sharpness * cost[i][j]) for j in range(k)] for i in range(n)]
    for _ in range(iterations):
        for i in range(n):
            total = sum(plan[i])
            plan[i] = [value * rows[i] / total for value in plan[i]]
        for j in range(k):
            total = sum(plan[i][j] for i in range(n))
            for i in range(n):
                plan[i][j] *= columns[j] / total
    return plan


def test_five_iterations_by_hand():
    plan = sinkhorn(COST, ROWS, COLUMNS)
    expected = torch.tensor([[[0.377318, 0], [0.222682, 0.009592], [0, 0.390407]]])
    torch.testing.assert_close(plan, expected, atol=1.5e-6, rtol=0)
    assert (plan * COST).sum().item() == pytest.approx(0.089333, abs=1e-6)
    assert plan[0].sum(1).tolist() == pytest.approx([0.3773, 0.2323, 0.3904], abs=6e-5)  # far from (.5, .3, .2): not converged
    assert plan[0].sum(0).tolist() == pytest.approx([0.6, 0.4], abs=1e-6)


@pytest.mark.parametrize(("iterations", "cost"), [(1, 0.085091), (5, 0.089333), (500, 0.160004)])
def test_the_number_of_iterations_is_part_of_the_algorithm(iterations, cost):
    plan = sinkhorn(COST.double(), ROWS.double(), COLUMNS.double(), iterations=iterations)
    assert (plan * COST).sum().item() == pytest.approx(cost, abs=1e-6)


def test_converged_by_hand():
    plan = sinkhorn(COST.double(), ROWS.double(), COLUMNS.double(), iterations=500)
    expected = torch.tensor([[[0.499994, 0.000006], [0.100006, 0.199994], [0, 0.2]]], dtype=torch.float64)
    torch.testing.assert_close(plan, expected, atol=1e-6, rtol=0)


def test_a_clear_problem_is_its_assignment():
    half = torch.full((1, 2), 0.5)
    plan = sinkhorn(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), half, half)
    torch.testing.assert_close(plan, torch.diag(half[0])[None], atol=1e-6, rtol=0)


def test_sharpness_zero_is_the_product_of_the_marginals():
    cost, rows, columns = problems(2, 4, 3)
    torch.testing.assert_close(sinkhorn(cost, rows, columns, sharpness=0.0), rows[:, :, None] * columns[:, None])


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 4), st.integers(1, 7), st.integers(1, 5), st.sampled_from([1.0, 20.0]), st.integers(1, 6), st.integers(0, 99)
)
def test_equals_the_naive_restatement(p, n, k, sharpness, iterations, seed):
    cost, rows, columns = problems(p, n, k, seed)
    found = sinkhorn(cost, rows, columns, sharpness, iterations)
    for i in range(p):
        expected = naive(cost[i].tolist(), rows[i].tolist(), columns[i].tolist(), sharpness, iterations)
        torch.testing.assert_close(found[i], torch.tensor(expected, dtype=torch.float64))


def test_columns_are_exact_and_rows_are_not():
    cost, rows, columns = problems(8, 30, 5)
    plan = sinkhorn(cost.float(), rows.float(), columns.float())
    torch.testing.assert_close(plan.sum(1), columns.float(), atol=1e-6, rtol=0)
    assert ((plan.sum(2) - rows.float()).abs() / rows.float()).max() > 0.05


def test_problems_do_not_meet():
    cost, rows, columns = problems(5, 6, 4)
    together = sinkhorn(cost, rows, columns)
    alone = torch.cat([sinkhorn(cost[i : i + 1], rows[i : i + 1], columns[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone)


def test_rows_and_columns_may_come_in_any_order():
    cost, rows, columns = problems(2, 6, 4)
    n, k = torch.tensor([3, 0, 5, 1, 2, 4]), torch.tensor([2, 3, 0, 1])
    found = sinkhorn(cost[:, n][:, :, k], rows[:, n], columns[:, k])
    torch.testing.assert_close(found, sinkhorn(cost, rows, columns)[:, n][:, :, k])


def test_a_constant_added_to_all_costs_changes_nothing():
    cost, rows, columns = problems(3, 5, 3)
    torch.testing.assert_close(sinkhorn(cost + 0.3, rows, columns), sinkhorn(cost, rows, columns))


def test_nothing_to_give_is_no_nan():
    columns = torch.tensor([[1.0, 0.0]])
    plan = sinkhorn(COST, torch.tensor([[0.5, 0.5, 0.0]]), columns)
    assert plan.isfinite().all()
    torch.testing.assert_close(plan.sum(1), columns, atol=1e-6, rtol=0)
    assert (plan[0, 2] == 0).all()


def test_the_cost_is_not_written_to():
    cost, rows, columns = problems(2, 4, 3)
    before = cost.clone(), rows.clone(), columns.clone()
    sinkhorn(cost, rows, columns)
    rescaled(cost, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, (cost, rows, columns), strict=True))


def test_rescaled_by_hand():
    cost = torch.tensor([[[1.0, 3.0]], [[5.0, 2.0]], [[-1.0, 0.0]]])
    assert rescaled(cost).flatten().tolist() == pytest.approx([2 / 6, 4 / 6, 1, 3 / 6, 0, 1 / 6])
    assert rescaled(cost, 1)[:, 0].tolist() == [[0, 1], [1, 0], [0, 1]]
    assert rescaled(cost, 2).flatten().tolist() == pytest.approx([0, 0.5, 1, 0.25, 0, 1])  # the last group has one problem


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 7), st.integers(0, 9), st.integers(0, 99))
def test_a_group_is_rescaled_as_if_alone(p, group, seed):
    cost = uniform(p, 3, 2, seed=seed) * 7 - 3
    found = rescaled(cost, group)
    size = group or p
    for start in range(0, p, size):
        part = cost[start : start + size]
        low, high = min(part.flatten().tolist()), max(part.flatten().tolist())
        torch.testing.assert_close(found[start : start + size], (part - low) / (high - low))


def test_rescaled_forgets_scale_and_offset():
    cost = uniform(4, 3, 2)
    torch.testing.assert_close(rescaled(5 * cost - 2, 2), rescaled(cost, 2))
    assert rescaled(cost).aminmax() == (0, 1)


def test_equal_costs_are_no_nan():
    found = rescaled(torch.full((3, 2, 2), 4.0), 2)
    assert found.isfinite().all()
    plan = sinkhorn(found, torch.full((3, 2), 0.5), torch.full((3, 2), 0.5))
    torch.testing.assert_close(plan, torch.full((3, 2, 2), 0.25))


@pytest.mark.parametrize(
    ("group", "low", "high"),
    [(0, [1, 1, 1, 1, 1], [9, 9, 9, 9, 9]), (1, [3, 9, 1, 4, 2], [3, 9, 1, 4, 2]), (2, [3, 3, 1, 1, 2], [9, 9, 4, 4, 2]),
     (3, [1, 1, 1, 2, 2], [9, 9, 9, 4, 4]), (5, [1] * 5, [9] * 5), (8, [1] * 5, [9] * 5)],
)  # fmt: skip
def test_extremes_by_hand(group, low, high):
    values = torch.tensor([3.0, 9.0, 1.0, 4.0, 2.0])
    assert extremes(values, group, smallest=True).tolist() == low
    assert extremes(values, group, smallest=False).tolist() == high
    assert extremes(-values, group, smallest=True).tolist() == [-v for v in high]  # padding must not win
