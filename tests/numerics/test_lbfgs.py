"""L-BFGS for many small problems at once: known minima, SciPy's minima, problems that know nothing of each other, bounds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from logistic_by_loops import f64, generator
from scipy import optimize
from smooth_problems import alone, by_autograd, largest, quadratics, softplus_problem, three_exponentials

from densebench.numerics.logistic import Minimum, minimise


@pytest.mark.parametrize("conditions", [(1,), (1, 10, 100), (1e4, 1.0, 1e2, 1e3)])
def test_quadratics_reach_their_known_minimum(conditions):
    function, minima, floors = quadratics(conditions, 12)
    start = torch.zeros(len(conditions), 12, dtype=f64)
    found = minimise(function, start, iterations=800, tolerance=1e-9)
    assert isinstance(found, Minimum)
    assert found.points.shape == (len(conditions), 12)
    assert found.values.shape == found.iterations.shape == found.converged.shape == (len(conditions),)
    assert found.iterations.dtype == torch.int64
    assert found.converged.dtype == torch.bool
    assert found.converged.all()
    assert (found.iterations > 0).all()
    # The smallest curvature is 1: the distance to the minimum is at most the gradient's norm.
    torch.testing.assert_close(found.points, minima, rtol=0, atol=1e-9 * math.sqrt(12) * 1.01)
    torch.testing.assert_close(found.values, floors, rtol=0, atol=1e-12)


@pytest.mark.parametrize("condition", [10, 1e3, 1e4])
def test_minimum_takes_about_as_many_iterations_as_scipy(condition):
    """SciPy's L-BFGS-B with ten pairs of history; steepest descent would take hundreds to tens of thousands of iterations."""
    function, _, _ = quadratics((condition,), 20)

    def as_numpy(x):
        values, gradients = function(torch.from_numpy(x)[None])
        return float(values), gradients[0].numpy()

    options = {"gtol": 1e-5, "ftol": 0.0, "maxcor": 10, "maxiter": 5000}
    theirs = optimize.minimize(as_numpy, np.zeros(20), jac=True, method="L-BFGS-B", options=options)
    assert np.abs(theirs.jac).max() < 1e-5
    found = minimise(function, torch.zeros(1, 20, dtype=f64), iterations=5000, tolerance=1e-5)
    assert found.converged.all()
    assert int(found.iterations) < 1.5 * theirs.nit + 5


def test_three_exponentials_reach_their_minimum_from_every_side():
    start = torch.tensor(list(itertools.product((-4.0, 0.0, 3.0), (-2.0, 0.0, 1.5))), dtype=f64)
    found = minimise(by_autograd(three_exponentials), start, iterations=300, tolerance=1e-9)
    assert found.converged.all()
    expected = torch.tensor([-math.log(2) / 2, 0.0], dtype=f64).expand(len(start), 2)
    torch.testing.assert_close(found.points, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.values, torch.full((len(start),), 2 * math.sqrt(2) * math.exp(-0.1), dtype=f64))


@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS"])
def test_same_minimum_as_scipy(method):
    function = by_autograd(softplus_problem)
    found = minimise(function, torch.zeros(3, 6, dtype=f64), iterations=500, tolerance=1e-9)
    assert found.converged.all()
    for number in range(3):

        def as_numpy(x, number=number):
            values, gradients = alone(function, number, 3)(torch.from_numpy(x)[None])
            return float(values), gradients[0].numpy()

        options = {"gtol": 1e-8} | ({"ftol": 0.0} if method == "L-BFGS-B" else {})
        reference = optimize.minimize(as_numpy, np.zeros(6), jac=True, method=method, options=options)
        assert np.abs(reference.jac).max() < 1e-6
        np.testing.assert_allclose(found.points[number].numpy(), reference.x, rtol=0, atol=2e-4 if number == 2 else 2e-5)
        assert float(found.values[number]) == pytest.approx(reference.fun, rel=1e-9)
        assert float(found.values[number]) <= reference.fun + 1e-14


@pytest.mark.parametrize("iterations", [1, 3, 8, 400])
def test_problems_solved_together_are_those_solved_alone(iterations):
    """Scales from 1e-3 to 1e4: the problems backtrack, fill their history and end at different iterations."""
    function, _, _ = quadratics((1, 1e3, 30, 5), 7, scales=[1e4, 1e-3, 1.0, 50.0], seed=3)
    start = torch.randn(4, 7, generator=generator(4), dtype=f64) * torch.tensor([1.0, 100.0, 5.0, 0.1], dtype=f64)[:, None]
    together = minimise(function, start, iterations=iterations, tolerance=1e-7)
    for number in range(4):
        single = minimise(alone(function, number, 4), start[number : number + 1], iterations=iterations, tolerance=1e-7)
        if iterations <= 8:  # rounding has not been amplified yet
            torch.testing.assert_close(together.points[number], single.points[0], rtol=1e-8, atol=1e-8)
            assert int(together.iterations[number]) == int(single.iterations[0])
        else:
            torch.testing.assert_close(together.points[number], single.points[0], rtol=0, atol=1e-3 if number == 1 else 1e-6)
            assert abs(int(together.iterations[number]) - int(single.iterations[0])) <= 3
        assert bool(together.converged[number]) == bool(single.converged[0])
        torch.testing.assert_close(together.values[number], single.values[0], rtol=1e-8, atol=1e-8)
    if iterations == 400:
        assert together.converged.all()
        assert len(set(together.iterations.tolist())) > 1


def test_a_start_at_the_minimum_takes_no_iteration_and_stays_while_others_go_on():
    function, minima, floors = quadratics((50, 50, 50), 6, seed=2)
    start = minima.clone()
    start[1] += 3.0
    found = minimise(function, start, iterations=200, tolerance=1e-9)
    assert found.iterations[0] == found.iterations[2] == 0
    assert found.iterations[1] > 2
    assert found.converged.all()
    assert torch.equal(found.points[[0, 2]], minima[[0, 2]])
    assert torch.equal(found.values[[0, 2]], floors[[0, 2]])
    torch.testing.assert_close(found.points[1], minima[1], rtol=0, atol=1e-8)


def test_a_problem_that_is_done_stays_bit_for_bit():
    function, _, _ = quadratics((1.5, 1e4), 10, seed=5)
    start = torch.randn(2, 10, generator=generator(6), dtype=f64)
    full = minimise(function, start, iterations=500, tolerance=1e-5)
    first, last = full.iterations.tolist()
    assert full.converged.all()
    assert first + 5 < last
    for bound in (first, first + 1, first + 4, last):
        part = minimise(function, start, iterations=bound, tolerance=1e-5)
        assert bool(part.converged[0])
        assert int(part.iterations[0]) == first
        assert torch.equal(part.points[0], full.points[0])
        assert torch.equal(part.values[0], full.values[0])
    # One iteration less, and it has not arrived.
    assert not bool(minimise(function, start, iterations=first - 1, tolerance=1e-5).converged[0])


def test_start_is_left_alone_and_nothing_returned_shares_its_memory():
    function, minima, _ = quadratics((10, 10), 4)
    start = torch.ones(2, 4, dtype=f64)
    start[1] = minima[1]
    kept = start.clone()
    found = minimise(function, start, iterations=50, tolerance=1e-8)
    assert torch.equal(start, kept)
    found.points.zero_()
    assert torch.equal(start, kept)


@pytest.mark.parametrize("bound", [0, 1, 2, 7])
def test_iterations_are_bounded_and_counted(bound):
    function, _, _ = quadratics((1e3, 1e4), 15)
    start = torch.ones(2, 15, dtype=f64)
    found = minimise(function, start, iterations=bound, tolerance=1e-9)
    assert found.iterations.tolist() == [bound, bound]
    assert not found.converged.any()
    values, _ = function(start)
    if bound == 0:
        assert torch.equal(found.points, start)
        torch.testing.assert_close(found.values, values)
    else:
        assert (found.values < values).all()


@pytest.mark.parametrize("iterations", [0, 1, 5, 12, 300])
def test_converged_and_values_are_those_of_the_points_returned(iterations):
    function, _, _ = quadratics((1, 5, 1e2, 1e4), 9, seed=9)
    tolerance = 1e-4
    start = torch.randn(4, 9, generator=generator(2), dtype=f64)
    found = minimise(function, start, iterations=iterations, tolerance=tolerance)
    values, gradients = function(found.points)
    torch.testing.assert_close(found.values, values, rtol=1e-13, atol=1e-13)
    assert found.converged.tolist() == (largest(gradients) <= tolerance).tolist()
    assert (found.iterations[~found.converged] == iterations).all()
    if iterations == 5:
        assert found.converged.any()
        assert not found.converged.all()


def test_the_largest_entry_of_the_gradient_decides_whatever_its_sign():
    """Gradients constant in x: entries all at the tolerance (their norm ten times that); one entry just above it."""
    slopes = torch.full((4, 100), 0.25, dtype=f64)
    slopes[1] *= -1
    slopes[2:] = 0
    slopes[2, 17] = 0.2501
    slopes[3, 99] = -0.2501

    def function(points):
        return (slopes * points).sum(1), slopes.clone()

    found = minimise(function, torch.zeros(4, 100, dtype=f64), iterations=3, tolerance=0.25)
    assert found.converged.tolist() == [True, True, False, False]
    assert found.iterations[:2].tolist() == [0, 0]
    assert not found.points[:2].any()
    assert (found.iterations[2:] > 0).all()
    # Downhill, and only along the one entry.
    assert float(found.points[2, 17]) < 0 < float(found.points[3, 99])
    assert (found.points[2:] != 0).sum() == 2
    assert found.points.isfinite().all()
