"""The steps of L-BFGS (Nocedal and Wright, Numerical Optimization, 2006, 7.4 and 7.5): history, walls, numbers that end."""

from __future__ import annotations

import math

import pytest
import torch
from logistic_by_loops import f64, generator
from smooth_problems import alone, by_autograd, largest, quadratics, valley

from densebench.numerics.logistic import minimise


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_values_only_fall(dtype):
    functions = [quadratics((1e3, 10, 1e4), 8, scales=[1e3, 1e-2, 1.0], dtype=dtype)[0], by_autograd(valley)]
    for function in functions:
        start = torch.randn(3, 8, generator=generator(11), dtype=f64).to(dtype) * 4
        before, _ = function(start)
        for bound in range(1, 15):
            found = minimise(function, start, iterations=bound, tolerance=0.0)
            assert (found.values <= before).all(), bound
            assert (found.values == function(found.points)[0]).all() or dtype == f64
            before = found.values


def test_a_tolerance_that_float32_cannot_meet_ends_and_says_so():
    """At the minimum of float32 no step lowers the value any more: the points stay good, and none is said to have converged."""
    function, minima, _ = quadratics((1e3, 1e2), 10, dtype=torch.float32)
    found = minimise(function, torch.full((2, 10), 5.0), iterations=300, tolerance=1e-12)
    _, gradients = function(found.points)
    assert found.converged.tolist() == (largest(gradients) <= 1e-12).tolist()
    assert (found.iterations <= 300).all()
    torch.testing.assert_close(found.points, minima, rtol=0, atol=3e-2)


@pytest.mark.parametrize("history", [1, 2, 4])
def test_history_keeps_that_many_pairs(history):
    """Iteration k (the first is 0) has k pairs behind it: a history of m pairs first differs after m + 2 iterations."""
    function, _, _ = quadratics((100,), 20, seed=13)
    start = torch.randn(1, 20, generator=generator(14), dtype=f64)

    def after(iterations, kept):
        return minimise(function, start, iterations=iterations, tolerance=1e-12, history=kept).points

    torch.testing.assert_close(after(history + 1, history), after(history + 1, 30), rtol=1e-10, atol=1e-10)
    assert (after(history + 2, history) - after(history + 2, 30)).abs().max() > 1e-6


def test_directions_are_those_of_the_inverse_hessian_of_bfgs():
    """With every pair kept, L-BFGS is BFGS from gamma I, gamma = s'y / y'y of the newest pair.

    Nocedal and Wright, equations 6.17 and 7.20. The step's length is left open (any backtracking will do), its direction is not.
    """
    function, _, _ = quadratics((50,), 8, seed=17)
    start = torch.randn(1, 8, generator=generator(18), dtype=f64)
    path = [start[0]] + [minimise(function, start, iterations=k, tolerance=1e-12).points[0] for k in range(1, 7)]
    slopes = [function(point[None])[1][0] for point in path]
    for k in range(6):
        H = torch.eye(8, dtype=f64)
        pairs = [(path[i + 1] - path[i], slopes[i + 1] - slopes[i]) for i in range(k)]
        if pairs:
            s, y = pairs[-1]
            H = H * (s @ y) / (y @ y)
        for s, y in pairs:
            rho = 1 / (s @ y)
            V = torch.eye(8, dtype=f64) - rho * torch.outer(y, s)
            H = V.T @ H @ V + rho * torch.outer(s, s)
        direction, step = -H @ slopes[k], path[k + 1] - path[k]
        cosine = torch.nn.functional.cosine_similarity(direction, step, dim=0)
        assert float(cosine) == pytest.approx(1.0, abs=1e-9), k


def test_a_problem_that_no_step_improves_is_not_tried_again():
    calls = []

    def walled(points):
        calls.append(points)
        return torch.where((points == 1).all(1), 0.0, math.inf), torch.ones_like(points)

    found = minimise(walled, torch.ones(2, 3, dtype=f64), iterations=50, tolerance=1e-9)
    assert (found.points == 1).all() and not found.converged.any()
    assert len(calls) < 50


@pytest.mark.parametrize("beyond", [math.inf, -math.inf, math.nan])
def test_a_wall_all_around_the_start_keeps_the_problem_there_and_others_unharmed(beyond):
    function, minima, _ = quadratics((20, 1, 20), 5, seed=19)
    start = torch.randn(3, 5, generator=generator(20), dtype=f64)

    def walled(points):
        values, gradients = function(points)
        outside = (points[1] != start[1]).any()
        if outside:
            values, gradients = values.clone(), gradients.clone()
            values[1] = beyond
            gradients[1] = math.nan
        return values, gradients

    found = minimise(walled, start, iterations=200, tolerance=1e-9)
    assert torch.equal(found.points[1], start[1])
    assert torch.equal(found.values[1], function(start)[0][1])
    assert found.converged.tolist() == [True, False, True]
    assert (found.iterations <= 200).all()
    for number in (0, 2):
        single = minimise(alone(function, number, 3), start[number : number + 1], iterations=200, tolerance=1e-9)
        torch.testing.assert_close(found.points[number], minima[number], rtol=0, atol=1e-8)
        torch.testing.assert_close(found.points[number], single.points[0], rtol=0, atol=1e-8)
        assert abs(int(found.iterations[number]) - int(single.iterations[0])) <= 1


@pytest.mark.parametrize("beyond", [math.inf, math.nan])
def test_a_minimum_close_to_a_wall_is_found(beyond):
    """f(x) = sum -log(1 - x) - k x: infinite from 1 on, its minimum 1 - 1/k; a full first step lands beyond the wall."""
    k = torch.tensor([3.0, 10.0, 40.0], dtype=f64)[:, None]

    def function(points):
        outside = (points >= 1).any(1)
        room = torch.where(points < 1, 1 - points, 1.0)
        values = (-room.log() - k * points).sum(1)
        gradients = 1 / room - k
        gradients = torch.where(outside[:, None], math.nan, gradients)
        return torch.where(outside, beyond, values), gradients

    start = torch.tensor([[0.0, -2.0], [0.5, -1.0], [-3.0, 0.0]], dtype=f64)
    found = minimise(function, start, iterations=300, tolerance=1e-8)
    assert found.converged.all()
    torch.testing.assert_close(found.points, (1 - 1 / k).expand(3, 2), rtol=0, atol=1e-8)


BROKEN = [(bad, other) for bad in (math.inf, math.nan) for other in ("values", "gradients", "both")]


def broken(function, number, bad, parts, where):
    """The same, with problem `number` not finite in its values, its gradients or both, at the points where `where` says so."""

    def changed(points):
        values, gradients = (part.clone() for part in function(points))
        if where(points[number]):
            if parts in ("values", "both"):
                values[number] = bad
            if parts in ("gradients", "both"):
                gradients[number] = bad
        return values, gradients

    return changed


@pytest.mark.parametrize(("bad", "parts"), BROKEN)
def test_a_problem_that_is_not_finite_at_the_start_stays_there_and_does_not_disturb_the_others(bad, parts):
    function, minima, _ = quadratics((5, 5, 80), 4, seed=21)
    start = torch.randn(3, 4, generator=generator(22), dtype=f64)
    found = minimise(broken(function, 0, bad, parts, lambda point: True), start, iterations=200, tolerance=1e-9)
    assert found.converged.tolist() == [False, True, True]
    torch.testing.assert_close(found.points[1:], minima[1:], rtol=0, atol=1e-8)
    assert torch.equal(found.points[0], start[0])


@pytest.mark.parametrize(("bad", "parts"), BROKEN)
def test_a_problem_that_stops_being_finite_ends_at_a_finite_point(bad, parts):
    """Problem 1 is sound at its start only. Where just its gradient is not finite it may take that step, but none after it."""
    function, minima, _ = quadratics((80, 5, 5), 4, seed=21)
    start = torch.randn(3, 4, generator=generator(22), dtype=f64)
    changed = broken(function, 1, bad, parts, lambda point: bool((point != start[1]).any()))
    found = minimise(changed, start, iterations=200, tolerance=1e-9)
    assert found.converged.tolist() == [True, False, True]
    torch.testing.assert_close(found.points[[0, 2]], minima[[0, 2]], rtol=0, atol=1e-8)
    assert found.points[1].isfinite().all()
    assert found.values[1].isfinite()
    assert float(found.values[1]) <= float(function(start)[0][1])
    if parts != "gradients":
        assert torch.equal(found.points[1], start[1])


def test_a_straight_slope_has_no_curvature_and_stays_finite_beside_the_others():
    function, minima, _ = quadratics((5, 100), 4, seed=23)

    def sloped(points):
        values, gradients = (part.clone() for part in function(points))
        values[0] = points[0].sum()
        gradients[0] = 1.0
        return values, gradients

    start = torch.zeros(2, 4, dtype=f64)
    found = minimise(sloped, start, iterations=100, tolerance=1e-9)
    assert found.points.isfinite().all()
    assert found.converged.tolist() == [False, True]
    assert float(found.values[0]) < -1
    torch.testing.assert_close(found.points[1], minima[1], rtol=0, atol=1e-8)
