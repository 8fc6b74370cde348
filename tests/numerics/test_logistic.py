"""Multinomial logistic regression by L-BFGS: the minimiser of many small problems at once, the objective, and the fit.

The minimiser is held to what Nocedal and Wright (Numerical Optimization, 2nd edition, 2006, algorithms 7.4 and 7.5) promise of
L-BFGS with backtracking: known minima, SciPy's minima, values that only fall, m pairs of history, problems that know nothing of
each other. The objective is restated as a double loop over rows and classes in float64 and differentiated by autograd:

    (1/N) sum_i sum_c y_ic (logsumexp(z_i) - z_ic) + (l2/2) |W|^2,    z = W'x + b,    N = sum of y,    b not regularised.

The fit is compared with scikit-learn's LogisticRegression (C = 1 / (N l2); with two classes scikit-learn has one vector for the
difference of both classes and C = 2 / (N l2)) and with what the optimum must satisfy whatever the data are.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn.linear_model import LogisticRegression

from densebench.numerics.logistic import Minimum, fit, loss, minimise

CPU = torch.device("cpu")
f64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- The minimiser ----------------------------------------------------------------------------------------------------


def quadratics(conditions, n, seed=0, scales=None, dtype=f64):
    """One quadratic a condition number, 0.5 (x - m)'A(x - m) + v with its own rotation, minimum m, value v and scale."""
    g = generator(seed)
    matrices, minima, floors = [], [], []
    for number, condition in enumerate(conditions):
        rotation, _ = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=f64))
        spectrum = torch.logspace(0, math.log10(condition), n, dtype=f64) * (1.0 if scales is None else scales[number])
        matrices.append(rotation @ torch.diag(spectrum) @ rotation.T)
        minima.append(torch.randn(n, generator=g, dtype=f64))
        floors.append(torch.randn((), generator=g, dtype=f64))
    A, m, v = torch.stack(matrices).to(dtype), torch.stack(minima).to(dtype), torch.stack(floors).to(dtype)

    def function(points):
        apart = points - m
        gradients = torch.einsum("lij,lj->li", A, apart)
        return 0.5 * (gradients * apart).sum(1) + v, gradients

    return function, m, v


def by_autograd(one):
    """A batch's values and gradients from `one(number, point)`, a scalar for each problem on its own."""

    def function(points):
        leaf = points.detach().clone().requires_grad_()
        values = torch.stack([one(number, point) for number, point in enumerate(leaf)])
        (gradients,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradients

    return function


def alone(function, number, count):
    """Problem `number` of `count`, as a function of a batch of one; the others are asked at the same point and left out."""

    def single(points):
        assert points.shape[0] == 1
        values, gradients = function(points.expand(count, -1).clone())
        return values[number : number + 1], gradients[number : number + 1]

    return single


def largest(gradients):
    return gradients.abs().amax(1)


def three_exponentials(_, x):
    """Boyd and Vandenberghe (2004), equation 9.20: convex, curved, its minimum (-log(2)/2, 0) of value 2 sqrt(2) exp(-0.1)."""
    return (x[0] + 3 * x[1] - 0.1).exp() + (x[0] - 3 * x[1] - 0.1).exp() + (-x[0] - 0.1).exp()


def valley(number, x):
    """Convex relative of Rosenbrock's valley: steep across, flat and quartic along; its minimum is 0 at (number, ..., number)."""
    steep = 10.0 ** (number + 1)
    return (steep * (x[1:] - x[:-1]) ** 2).sum() + ((x - number) ** 4).sum() + 0.01 * ((x - number) ** 2).sum()


def softplus_problem(number, x):
    """A regularised two-class logistic regression that differs with `number`; no minimum in closed form."""
    g = generator(100 + number)
    rows = torch.randn(25, x.numel(), generator=g, dtype=f64) * torch.logspace(-1, 0.5, x.numel(), dtype=f64)
    side = torch.sign(torch.randn(25, generator=g, dtype=f64))
    return torch.nn.functional.softplus(-side * (rows @ x)).mean() + 0.5 * 10.0 ** (-number - 1) * (x * x).sum()


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


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_minimum_does_not_depend_on_the_scale_of_the_function(scale):
    function, minima, _ = quadratics((30.0,), 6, scales=[scale])
    found = minimise(function, torch.full((1, 6), 3.0, dtype=f64), iterations=300, tolerance=1e-8 * scale)
    assert found.converged.all()
    torch.testing.assert_close(found.points, minima, rtol=0, atol=3e-8)


def test_three_exponentials_reach_their_minimum_from_every_side():
    start = torch.tensor(list(itertools.product((-4.0, 0.0, 3.0), (-2.0, 0.0, 1.5))), dtype=f64)
    found = minimise(by_autograd(three_exponentials), start, iterations=300, tolerance=1e-9)
    assert found.converged.all()
    expected = torch.tensor([-math.log(2) / 2, 0.0], dtype=f64).expand(len(start), 2)
    torch.testing.assert_close(found.points, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.values, torch.full((len(start),), 2 * math.sqrt(2) * math.exp(-0.1), dtype=f64))


def test_valleys_reach_their_minimum():
    start = torch.linspace(-2, 2, 5, dtype=f64).expand(4, 5).clone()
    found = minimise(by_autograd(valley), start, iterations=1000, tolerance=1e-9)
    assert found.converged.all()
    torch.testing.assert_close(found.points, torch.arange(4, dtype=f64)[:, None].expand(4, 5), rtol=0, atol=1e-6)


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


def test_non_quadratic_problems_solved_together_are_those_solved_alone():
    function = by_autograd(lambda number, x: three_exponentials(0, x) if number % 2 else valley(number, x))
    start = torch.tensor([[5.0, -3.0], [-6.0, 2.0], [0.0, 0.0], [4.0, -2.0]], dtype=f64)
    for iterations in (2, 6):
        together = minimise(function, start, iterations=iterations, tolerance=1e-12)
        for number in range(4):
            single = minimise(alone(function, number, 4), start[number : number + 1], iterations=iterations, tolerance=1e-12)
            torch.testing.assert_close(together.points[number], single.points[0], rtol=1e-8, atol=1e-8)


def test_order_of_the_problems_does_not_matter():
    function, _, _ = quadratics((1, 100, 20), 5, seed=8)
    order = torch.tensor([2, 0, 1])
    back = torch.argsort(order)

    def shuffled(points):
        values, gradients = function(points[back])
        return values[order], gradients[order]

    start = torch.randn(3, 5, generator=generator(1), dtype=f64)
    plain = minimise(function, start, iterations=9, tolerance=1e-9)
    moved = minimise(shuffled, start[order], iterations=9, tolerance=1e-9)
    torch.testing.assert_close(moved.points, plain.points[order], rtol=1e-9, atol=1e-9)
    assert moved.iterations.tolist() == plain.iterations[order].tolist()


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


@pytest.mark.parametrize(("dtype", "tolerance", "apart"), [(torch.float32, 1e-3, 4e-3), (f64, 1e-10, 1e-9)])
def test_results_have_the_precision_of_the_start(dtype, tolerance, apart):
    function, minima, _ = quadratics((1, 20, 100), 6, dtype=dtype)
    found = minimise(function, torch.zeros(3, 6, dtype=dtype), iterations=300, tolerance=tolerance)
    assert found.points.dtype == found.values.dtype == dtype
    assert found.converged.all()
    torch.testing.assert_close(found.points, minima, rtol=0, atol=apart)


def test_a_tolerance_that_float32_cannot_meet_ends_and_says_so():
    """At the minimum of float32 no step lowers the value any more: the points stay good, and none is said to have converged."""
    function, minima, _ = quadratics((1e3, 1e2), 10, dtype=torch.float32)
    found = minimise(function, torch.full((2, 10), 5.0), iterations=300, tolerance=1e-12)
    _, gradients = function(found.points)
    assert found.converged.tolist() == (largest(gradients) <= 1e-12).tolist()
    assert (found.iterations <= 300).all()
    torch.testing.assert_close(found.points, minima, rtol=0, atol=3e-2)


@pytest.mark.parametrize("history", [1, 3, 10, 40])
def test_any_history_reaches_the_minimum(history):
    function, minima, _ = quadratics((1, 200), 15)
    found = minimise(function, torch.zeros(2, 15, dtype=f64), iterations=1000, tolerance=1e-9, history=history)
    assert found.converged.all()
    torch.testing.assert_close(found.points, minima, rtol=0, atol=1e-8)


@pytest.mark.parametrize("history", [1, 2, 4])
def test_history_keeps_that_many_pairs(history):
    """Iteration k (the first is 0) has k pairs behind it: a history of m pairs first differs after m + 2 iterations."""
    function, _, _ = quadratics((100,), 20, seed=13)
    start = torch.randn(1, 20, generator=generator(14), dtype=f64)

    def after(iterations, kept):
        return minimise(function, start, iterations=iterations, tolerance=1e-12, history=kept).points

    torch.testing.assert_close(after(history + 1, history), after(history + 1, 30), rtol=1e-10, atol=1e-10)
    assert (after(history + 2, history) - after(history + 2, 30)).abs().max() > 1e-6


def test_the_default_history_is_ten_pairs():
    function, _, _ = quadratics((1000,), 30, seed=15)
    start = torch.randn(1, 30, generator=generator(16), dtype=f64)
    plain = minimise(function, start, iterations=14, tolerance=1e-12).points
    assert torch.equal(plain, minimise(function, start, iterations=14, tolerance=1e-12, history=10).points)
    assert not torch.equal(plain, minimise(function, start, iterations=14, tolerance=1e-12, history=9).points)
    assert not torch.equal(plain, minimise(function, start, iterations=14, tolerance=1e-12, history=11).points)


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


@pytest.mark.parametrize("beyond", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("bound", [1, 2, 5, 60])
def test_a_slope_towards_a_wall_never_goes_beyond_it(beyond, bound):
    """f(x) = sum x for x > 0 has no minimum: whatever the bound, the points are on this side and not above the start."""
    start = torch.tensor([[0.3, 0.9], [5.0, 1e-3], [1e3, 2.0]], dtype=f64)

    def function(points):
        outside = (points <= 0).any(1)
        slopes = torch.ones_like(points)
        slopes[outside] = math.nan
        return torch.where(outside, beyond, points.sum(1)), slopes

    found = minimise(function, start, iterations=bound, tolerance=1e-6)
    assert (found.points > 0).all()
    assert found.values.isfinite().all()
    torch.testing.assert_close(found.values, found.points.sum(1))
    assert (found.values <= start.sum(1)).all()
    assert not found.converged.any()


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


def test_one_problem_of_one_number():
    found = minimise(lambda p: (((p - 4) ** 2).sum(1), 2 * (p - 4)), torch.zeros(1, 1, dtype=f64), iterations=50, tolerance=1e-12)
    assert found.converged.tolist() == [True]
    assert float(found.points) == pytest.approx(4.0, abs=1e-12)


# --- The objective ----------------------------------------------------------------------------------------------------


def soft_rows(n=23, d=4, c=3, seed=0, dtype=f64):
    """Features and labels that are not distributions: each row's labels sum to anything from 0 to 1."""
    g = generator(seed)
    x = torch.randn(n, d, generator=g, dtype=f64) * torch.logspace(-0.5, 0.5, d, dtype=f64) + 0.3
    y = torch.rand(n, c, generator=g, dtype=f64)
    y = y / y.sum(1, keepdim=True) * torch.rand(n, 1, generator=g, dtype=f64)
    return x.to(dtype), y.to(dtype)


def hard_rows(n=90, d=4, c=3, seed=0, apart=1.0):
    """Overlapping clusters: features, the class of each row."""
    g = generator(seed)
    t = torch.randint(c, (n,), generator=g)
    t[:c] = torch.arange(c)
    x = torch.randn(c, d, generator=g)[t] * apart + torch.randn(n, d, generator=g)
    return x, t


def one_hot(t, c):
    return torch.nn.functional.one_hot(t, c).float()


def chunks(x, y, size=None):
    """A callable that gives a fresh, single-use iterator whenever it is called."""
    return lambda: ((x[i : i + (size or len(x))], y[i : i + (size or len(x))]) for i in range(0, len(x), size or len(x)))


def random_weights(count, d, c, seed=1, dtype=f64):
    return torch.randn(count, d + 1, c, generator=generator(seed), dtype=f64).to(dtype)


def naive_value(x, y, weights, l2):
    """The objective of one problem, number by number, in float64."""
    x, y, weights = x.to(f64), y.to(f64), weights.to(f64)
    d, c = weights.shape[0] - 1, weights.shape[1]
    total, mass = torch.zeros((), dtype=f64), 0.0
    for i in range(len(x)):
        z = [sum(weights[j, k] * x[i, j] for j in range(d)) + weights[d, k] for k in range(c)]
        top = max(float(number.detach()) for number in z)
        log_sum = top + sum((number - top).exp() for number in z).log()
        for k in range(c):
            total = total + y[i, k] * (log_sum - z[k])
            mass += float(y[i, k])
    norm = sum(weights[j, k] ** 2 for j in range(d) for k in range(c))
    return total / mass + 0.5 * float(l2) * norm


def naive(x, y, weights, l2):
    """Values [l] and gradients [l, d + 1, c] of every problem by autograd."""
    leaf = weights.detach().to(f64).clone().requires_grad_()
    values = torch.stack([naive_value(x, y, one, two) for one, two in zip(leaf, l2, strict=True)])
    (gradients,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradients


def quick(x, y, weights, l2):
    """The same with matrices, for more rows; checked against the loops below."""
    leaf = weights.detach().to(f64).clone().requires_grad_()
    z = x.to(f64) @ leaf[:-1] + leaf[-1]
    y = y.to(f64)
    value = (y * (torch.logsumexp(z, 1, keepdim=True) - z)).sum() / y.sum() + 0.5 * l2 * (leaf[:-1] ** 2).sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def test_the_two_restatements_agree():
    x, y = soft_rows()
    weights = random_weights(1, 4, 3)
    values, gradients = naive(x, y, weights, [0.2])
    value, gradient = quick(x, y, weights[0], 0.2)
    torch.testing.assert_close(value, values[0])
    torch.testing.assert_close(gradient, gradients[0])


@pytest.mark.parametrize(("d", "c"), [(4, 3), (3, 4), (1, 2), (2, 5)])
def test_loss_and_gradient_are_those_of_the_loops(d, c):
    x, y = soft_rows(17, d, c)
    weights, l2 = random_weights(3, d, c), torch.tensor([0.0, 0.3, 2.0], dtype=f64)
    values, gradients = loss(chunks(x, y, 5), weights, l2)
    expected = naive(x, y, weights, l2)
    assert values.shape == (3,)
    assert gradients.shape == weights.shape
    torch.testing.assert_close(values, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, expected[1], rtol=1e-11, atol=1e-12)


def test_loss_in_float32_is_that_of_the_loops():
    x, y = soft_rows(dtype=torch.float32)
    weights, l2 = random_weights(2, 4, 3, dtype=torch.float32), torch.tensor([1e-3, 0.5])
    values, gradients = loss(chunks(x, y, 6), weights, l2)
    expected = naive(x, y, weights, l2)
    assert values.dtype == gradients.dtype == torch.float32
    torch.testing.assert_close(values.to(f64), expected[0], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(gradients.to(f64), expected[1], rtol=2e-5, atol=2e-6)


def test_loss_carries_no_graph_and_leaves_its_arguments_alone():
    x, y = soft_rows(dtype=torch.float32)
    weights, l2 = random_weights(2, 4, 3, dtype=torch.float32), torch.tensor([0.1, 0.2])
    kept = [part.clone() for part in (x, y, weights, l2)]
    values, gradients = loss(chunks(x, y, 6), weights, l2)
    assert not values.requires_grad
    assert not gradients.requires_grad
    for part, before in zip((x, y, weights, l2), kept, strict=True):
        assert torch.equal(part, before)


@pytest.mark.parametrize("size", [1, 2, 7, 22, 23, 50])
def test_chunks_do_not_matter(size):
    x, y = soft_rows()
    weights, l2 = random_weights(2, 4, 3), torch.tensor([0.1, 0.0], dtype=f64)
    whole, part = loss(chunks(x, y), weights, l2), loss(chunks(x, y, size), weights, l2)
    torch.testing.assert_close(part[0], whole[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(part[1], whole[1], rtol=1e-12, atol=1e-13)


def test_neither_the_order_of_rows_nor_rows_without_labels_matter():
    x, y = soft_rows()
    weights, l2 = random_weights(2, 4, 3), torch.tensor([0.1, 0.0], dtype=f64)
    plain = loss(chunks(x, y, 5), weights, l2)
    order = torch.randperm(len(x), generator=generator(3))
    empty = torch.randn(9, 4, generator=generator(5), dtype=f64) * 10
    for rows in (
        chunks(x[order], y[order], 5),
        chunks(torch.cat([x, empty]), torch.cat([y, torch.zeros(9, 3, dtype=f64)]), 4),  # a whole chunk without labels among them
    ):
        for found, expected in zip(loss(rows, weights, l2), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_a_row_of_weight_three_is_three_rows():
    x, y = soft_rows(12)
    times = torch.randint(1, 5, (12,), generator=generator(7))
    weights, l2 = random_weights(2, 4, 3), torch.tensor([0.1, 0.7], dtype=f64)
    scaled = loss(chunks(x, y * times[:, None], 5), weights, l2)
    repeated = loss(chunks(x.repeat_interleave(times, 0), y.repeat_interleave(times, 0), 5), weights, l2)
    for one, other in zip(scaled, repeated, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    assert not torch.allclose(scaled[0], loss(chunks(x, y, 5), weights, l2)[0], rtol=1e-3)


def test_the_scale_of_all_labels_does_not_matter():
    """N is the sum of the labels, not the number of rows: the regulariser weighs the same however little mass the rows have."""
    x, y = soft_rows()
    weights, l2 = random_weights(2, 4, 3), torch.tensor([0.1, 0.7], dtype=f64)
    for one, other in zip(loss(chunks(x, y, 5), weights, l2), loss(chunks(x, y * 0.037, 5), weights, l2), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_soft_labels_are_the_mixture_of_hard_ones():
    x, y = soft_rows(11)
    weights, l2 = random_weights(2, 4, 3), torch.tensor([0.1, 0.7], dtype=f64)
    soft = loss(chunks(x, y, 4), weights, l2)
    split = torch.eye(3, dtype=f64)[None] * y[:, :, None]  # a row for each class of a row, its label hard and weighted
    hard = loss(chunks(x.repeat_interleave(3, 0), split.reshape(33, 3), 4), weights, l2)
    for one, other in zip(soft, hard, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    # And the mean of the losses of every hard labelling, by its mass.
    parts, mass = torch.zeros(2, dtype=f64), 0.0
    for i, k in itertools.product(range(11), range(3)):
        parts += y[i, k] * loss(chunks(x[i : i + 1], torch.eye(3, dtype=f64)[k : k + 1]), weights, torch.zeros(2, dtype=f64))[0]
        mass += float(y[i, k])
    torch.testing.assert_close(soft[0], parts / mass + 0.5 * l2 * (weights[:, :-1] ** 2).sum((1, 2)), rtol=1e-12, atol=1e-12)


def test_only_the_weights_are_regularised_and_each_problem_by_its_own_strength():
    x, y = soft_rows()
    weights = random_weights(1, 4, 3).expand(3, 5, 3).clone()
    l2 = torch.tensor([0.0, 0.25, 3.0], dtype=f64)
    values, gradients = loss(chunks(x, y, 5), weights, l2)
    norm = float((weights[0, :4] ** 2).sum())
    for number in (1, 2):
        assert float(values[number] - values[0]) == pytest.approx(0.5 * float(l2[number]) * norm, rel=1e-12)
        torch.testing.assert_close(gradients[number, :4] - gradients[0, :4], l2[number] * weights[0, :4], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(gradients[number, 4], gradients[0, 4], rtol=1e-12, atol=1e-14)


def test_problems_of_one_call_do_not_leak_into_each_other():
    x, y = soft_rows()
    weights, l2 = random_weights(3, 4, 3), torch.tensor([0.0, 0.25, 3.0], dtype=f64)
    values, gradients = loss(chunks(x, y, 5), weights, l2)
    for number in range(3):
        value, gradient = loss(chunks(x, y, 5), weights[number : number + 1], l2[number : number + 1])
        torch.testing.assert_close(value[0], values[number], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(gradient[0], gradients[number], rtol=1e-12, atol=1e-13)


def test_zero_weights_cost_the_logarithm_of_the_number_of_classes():
    x, y = soft_rows(30, 4, 5)
    values, gradients = loss(chunks(x, y, 7), torch.zeros(1, 5, 5, dtype=f64), torch.tensor([9.0], dtype=f64))
    assert float(values) == pytest.approx(math.log(5), rel=1e-13)
    share = y.sum(0) / y.sum()
    torch.testing.assert_close(gradients[0, 4], 0.2 - share, rtol=1e-12, atol=1e-14)


def test_large_logits_do_not_overflow():
    x, y = soft_rows(10, dtype=torch.float32)
    weights = random_weights(1, 4, 3, dtype=torch.float32) * 1e4
    values, gradients = loss(chunks(x, y, 3), weights, torch.tensor([0.0]))
    expected = naive(x, y, weights, [0.0])
    torch.testing.assert_close(values.to(f64), expected[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(gradients.to(f64), expected[1], rtol=1e-3, atol=1e-4)


# --- The fit ----------------------------------------------------------------------------------------------------------

# Float32 tells values v apart to about 6e-8 v, so that weights are known to some (1e-7 v / l2)^(1/2) where the step's length is
# chosen by value: 1e-3 for most of what follows. The tolerances below are of that order.


def fitted(x, y, l2, iterations=500, tolerance=1e-6, size=32):
    rows = chunks(x, y, size)
    weights, found = fit(rows, x.shape[1], y.shape[1], l2, iterations=iterations, tolerance=tolerance, device=CPU)
    return weights.to(f64), found


def logits(x, weights):
    return x.to(f64) @ weights[:-1] + weights[-1]


def centred(weights):
    """Softmax does not see what all classes have in common: the mean of the biases is free (that of the weights is not)."""
    weights = weights.to(f64)
    return torch.cat([weights[..., :-1, :], weights[..., -1:, :] - weights[..., -1:, :].mean(-1, keepdim=True)], -2)


def reference(x, t, l2, sample_weight=None):
    """scikit-learn's weights [d + 1, c] for three classes or more."""
    mass = len(x) if sample_weight is None else float(sample_weight.sum())
    model = LogisticRegression(C=1 / (mass * l2), tol=1e-10, max_iter=5000)
    model.fit(x.double().numpy(), t.numpy(), sample_weight=None if sample_weight is None else sample_weight.double().numpy())
    return torch.from_numpy(np.concatenate([model.coef_.T, model.intercept_[None]], 0))


@pytest.mark.parametrize(("d", "c", "l2"), [(4, 3, 0.1), (6, 4, 0.01), (2, 5, 1.0), (5, 3, 0.003)])
def test_fit_gives_the_weights_of_scikit_learn(d, c, l2):
    x, t = hard_rows(120, d, c)
    weights, found = fitted(x, one_hot(t, c), [l2])
    assert weights.shape == (1, d + 1, c)
    assert isinstance(found, Minimum)
    expected = reference(x, t, l2)
    torch.testing.assert_close(centred(weights[0]), centred(expected), rtol=2e-3, atol=max(1e-3, 1e-5 / l2))
    torch.testing.assert_close(weights[0, :-1].mean(1), torch.zeros(d, dtype=f64), rtol=0, atol=1e-4)
    assert float(found.values) == pytest.approx(float(quick(x, one_hot(t, c), expected, l2)[0]), rel=1e-5)


def test_fit_gives_the_weights_of_scikit_learn_for_features_of_unequal_scale():
    x, t = hard_rows(150, 4, 3, seed=2)
    x = x * torch.tensor([0.05, 1.0, 8.0, 30.0]) + torch.tensor([0.0, 1.0, -4.0, 10.0])
    weights, _ = fitted(x, one_hot(t, 3), [0.02], iterations=2000, tolerance=1e-5)
    torch.testing.assert_close(centred(weights[0]), centred(reference(x, t, 0.02)), rtol=5e-3, atol=2e-3)


def test_fit_of_two_classes_gives_the_difference_that_scikit_learn_has():
    x, t = hard_rows(100, 3, 2, seed=3)
    l2 = 0.05
    weights, _ = fitted(x, one_hot(t, 2), [l2])
    model = LogisticRegression(C=2 / (len(x) * l2), tol=1e-10, max_iter=5000).fit(x.double().numpy(), t.numpy())
    difference = (weights[0, :, 1] - weights[0, :, 0]).double().numpy()
    np.testing.assert_allclose(difference, np.append(model.coef_[0], model.intercept_), rtol=2e-3, atol=1e-3)


def test_fit_of_weighted_rows_gives_the_weights_of_scikit_learn():
    """Row weights below one: each row's labels sum to its weight."""
    x, t = hard_rows(100, 4, 3, seed=4)
    mass = torch.rand(100, generator=generator(8)) * 0.9 + 0.05
    weights, _ = fitted(x, one_hot(t, 3) * mass[:, None], [0.05])
    torch.testing.assert_close(centred(weights[0]), centred(reference(x, t, 0.05, mass)), rtol=2e-3, atol=1e-3)
    assert (centred(weights[0]) - centred(reference(x, t, 0.05))).abs().max() > 2e-2


def test_fit_of_soft_labels_gives_the_weights_of_scikit_learn_for_every_class_of_a_row():
    x, y = soft_rows(60, 4, 3, seed=5, dtype=torch.float32)
    weights, _ = fitted(x, y, [0.02])
    expected = reference(x.repeat_interleave(3, 0), torch.arange(3).repeat(60), 0.02, y.reshape(-1))
    torch.testing.assert_close(centred(weights[0]), centred(expected), rtol=2e-3, atol=1e-3)


def test_fit_is_stationary_where_it_says_so_and_its_minimum_is_that_of_its_weights():
    x, y = soft_rows(80, 5, 4, seed=6, dtype=torch.float32)
    l2 = [1.0, 0.1, 0.01]
    weights, found = fitted(x, y, l2, tolerance=1e-4)
    assert weights.shape == (3, 6, 4)
    assert found.converged.all()
    assert (found.iterations > 0).all()
    torch.testing.assert_close(found.points.reshape(3, 6, 4).to(f64), weights, rtol=1e-6, atol=1e-7)
    for number in range(3):
        value, gradient = quick(x, y, weights[number], l2[number])
        assert float(gradient.abs().max()) < 1.05e-4
        assert float(found.values[number]) == pytest.approx(float(value), rel=1e-6)


def test_fit_within_few_iterations_says_that_it_has_not_converged():
    x, t = hard_rows()
    y = one_hot(t, 3)
    weights, found = fitted(x, y, [1e-4, 1e-3], iterations=3, tolerance=1e-7)
    assert not found.converged.any()
    assert (found.iterations <= 3).all()
    best, _ = fitted(x, y, [1e-4, 1e-3])
    for number, l2 in enumerate((1e-4, 1e-3)):
        value, gradient = quick(x, y, weights[number], l2)
        assert float(gradient.abs().max()) > 1e-7
        assert float(quick(x, y, best[number], l2)[0]) < float(value) < math.log(3)


def test_looser_tolerance_takes_fewer_iterations():
    x, t = hard_rows()
    loose, tight = (fitted(x, one_hot(t, 3), [1e-3], tolerance=tolerance)[1] for tolerance in (1e-2, 1e-5))
    assert loose.converged.all()
    assert tight.converged.all()
    assert int(loose.iterations) < int(tight.iterations)


def test_several_strengths_in_one_call_are_single_calls():
    x, t = hard_rows(seed=9)
    y = one_hot(t, 3)
    l2 = [0.3, 0.01, 0.05]
    together, _ = fitted(x, y, l2)
    for number, strength in enumerate(l2):
        single, _ = fitted(x, y, [strength])
        torch.testing.assert_close(together[number], single[0], rtol=0, atol=2e-3)
    sizes = (together[:, :-1] ** 2).sum((1, 2))
    assert float(sizes[0]) < float(sizes[2]) < float(sizes[1])


def test_permuting_classes_permutes_columns():
    x, t = hard_rows(c=4, seed=10)
    y = one_hot(t, 4)
    order = torch.tensor([2, 3, 1, 0])
    plain, moved = fitted(x, y, [0.05])[0], fitted(x, y[:, order], [0.05])[0]
    torch.testing.assert_close(moved, plain[..., order], rtol=0, atol=1e-3)
    assert not torch.allclose(plain, plain[..., order], atol=1e-2)


def test_permuting_features_permutes_rows():
    x, t = hard_rows(seed=11)
    order = torch.tensor([2, 3, 1, 0])
    plain, moved = fitted(x, one_hot(t, 3), [0.05])[0], fitted(x[:, order], one_hot(t, 3), [0.05])[0]
    torch.testing.assert_close(moved[:, :4], plain[:, order], rtol=0, atol=1e-3)
    torch.testing.assert_close(moved[:, 4], plain[:, 4], rtol=0, atol=1e-3)


def test_a_constant_added_to_a_feature_changes_only_the_biases():
    x, t = hard_rows(seed=12)
    y = one_hot(t, 3)
    shift = torch.tensor([0.0, 3.0, -2.0, 0.5], dtype=f64)
    plain, moved = fitted(x, y, [0.05])[0][0], fitted(x + shift.float(), y, [0.05], iterations=2000)[0][0]
    torch.testing.assert_close(moved[:-1], plain[:-1], rtol=0, atol=1e-3)
    expected = plain[-1] - shift @ plain[:-1]
    torch.testing.assert_close(moved[-1] - moved[-1].mean(), expected - expected.mean(), rtol=0, atol=3e-3)
    assert float((moved[-1] - plain[-1]).abs().max()) > 0.1


def test_under_a_strong_regulariser_the_biases_alone_give_the_share_of_each_class():
    x, y = soft_rows(50, 4, 3, seed=13, dtype=torch.float32)
    y = y * torch.tensor([1.0, 0.3, 0.1])
    weights, found = fitted(x - x.mean(0), y, [1e4], iterations=2000, tolerance=1e-5)
    assert found.values.isfinite().all()
    assert float(weights[0, :-1].abs().max()) < 1e-3
    torch.testing.assert_close(weights[0, -1].softmax(0), (y.sum(0) / y.sum()).to(f64), rtol=0, atol=2e-3)


def test_the_biases_of_a_minimum_give_each_class_its_share_of_the_predictions():
    """The gradient of the unregularised bias is zero: predicted and given mass of each class agree, whatever l2."""
    x, y = soft_rows(70, 4, 3, seed=14, dtype=torch.float32)
    weights, _ = fitted(x, y, [0.5, 0.01])
    for one in weights:
        predicted = logits(x, one).softmax(1) * y.sum(1, keepdim=True)
        torch.testing.assert_close(predicted.sum(0) / y.sum(), (y.sum(0) / y.sum()).to(f64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 13, 90])
def test_fit_does_not_depend_on_chunks(size):
    x, t = hard_rows(seed=15)
    y = one_hot(t, 3)
    torch.testing.assert_close(fitted(x, y, [0.05], size=size)[0], fitted(x, y, [0.05])[0], rtol=0, atol=1e-3)


def test_separable_data_stay_finite():
    x, t = hard_rows(60, 4, 3, seed=16, apart=30.0)
    y = one_hot(t, 3)
    l2 = [0.0, 1e-8, 1e-3]
    weights, found = fitted(x, y, l2, iterations=300, tolerance=1e-7)
    assert weights.isfinite().all()
    assert found.values.isfinite().all()
    for one in weights:
        assert (logits(x, one).argmax(1) == t).all()
    assert float(found.values[0]) < 1e-2
    # The logits are near 30, where numbers of float32 are 2e-6 apart: the value cannot be told better than that.
    expected = reference(x, t, 1e-3)
    assert float(quick(x, y, weights[2], 1e-3)[0]) == pytest.approx(float(quick(x, y, expected, 1e-3)[0]), abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_float32_ends_short_of_the_tolerance_the_value_is_close_to_the_minimum_and_it_is_said(seed):
    x, t = hard_rows(300, 8, 5, seed=seed)
    y = one_hot(t, 5)
    l2 = [1e-3, 1e-4, 1e-5]
    weights, found = fitted(x, y, l2, iterations=1000, tolerance=1e-6, size=300)
    for number, strength in enumerate(l2):
        steepest = float(quick(x, y, weights[number], strength)[1].abs().max())
        assert steepest < 2e-6 if found.converged[number] else steepest > 5e-7
        least = float(quick(x, y, reference(x, t, strength), strength)[0])
        assert float(quick(x, y, weights[number], strength)[0]) == pytest.approx(least, rel=2e-3)


@pytest.mark.parametrize("absent", [0, 2, 3])
def test_a_class_without_rows_stays_finite_and_is_never_predicted(absent):
    x, t = hard_rows(80, 4, 3, seed=17)
    columns = [k for k in range(4) if k != absent]
    y = torch.zeros(80, 4)
    y[:, columns] = one_hot(t, 3)
    weights, found = fitted(x, y, [0.0, 0.01, 1.0], iterations=300, tolerance=1e-6)
    assert weights.isfinite().all()
    assert found.values.isfinite().all()
    for one in weights:
        assert float(logits(x, one).softmax(1)[:, absent].max()) < 1e-2
    # The classes that are there are told apart as if the absent one were unknown.
    known, _ = fitted(x, y[:, columns], [0.01])
    with_absent = logits(x, weights[1])[:, columns].softmax(1)
    without = logits(x, known[0]).softmax(1)
    torch.testing.assert_close(with_absent, without, rtol=0, atol=5e-3)


def test_rows_of_one_class_only_stay_finite():
    x, _ = hard_rows(20, 4, 3)
    y = one_hot(torch.ones(20, dtype=torch.int64), 3)
    weights, found = fitted(x, y, [0.0, 0.1], iterations=200)
    assert weights.isfinite().all()
    assert (found.values < 1e-2).all()
    for one in weights:
        assert (logits(x, one).argmax(1) == 1).all()


def test_fit_asks_for_the_rows_anew_each_time_and_repeats_itself():
    x, t = hard_rows(seed=18)
    y = one_hot(t, 3)
    calls = []

    def rows():
        calls.append(None)
        return iter([(x[:40], y[:40]), (x[40:], y[40:])])

    first, found = fit(rows, 4, 3, (0.05,), iterations=100, tolerance=1e-5, device=CPU)
    assert len(calls) > int(found.iterations)
    second, _ = fit(rows, 4, 3, (0.05,), iterations=100, tolerance=1e-5, device=CPU)
    assert torch.equal(first, second)
