"""L-BFGS the way of a GPU, where the next direction is found before it is known whether the step was long enough."""

from __future__ import annotations

import pytest
import torch
from logistic_by_loops import chunks, generator, soft_rows
from smooth_problems import by_autograd, quadratics, valley

from densebench.numerics import logistic
from densebench.numerics.logistic import fit, minimise


def equal(one, other):
    for name in ("points", "values", "iterations", "converged"):
        pair = (getattr(minimum, name) for minimum in (one, other))
        torch.testing.assert_close(*pair, rtol=0, atol=0, equal_nan=True, msg=name)


def walls(points):
    """Infinite beyond 1, so that steps are halved often: sum of -log(1 - x) - k x."""
    k = torch.tensor([3.0, 10.0, 40.0], dtype=torch.float64)[:, None]
    outside, room = (points >= 1).any(1), torch.where(points < 1, 1 - points, 1.0)
    return torch.where(outside, torch.inf, (-room.log() - k * points).sum(1)), 1 / room - k


FUNCTIONS = {
    "quadratics": lambda: quadratics((1e3, 10, 1e4), 8, scales=[1e3, 1e-2, 1.0])[0],
    "a valley": lambda: by_autograd(valley),
    "walls": lambda: walls,
    "nowhere finite": lambda: lambda points: (points.sum(1) + torch.nan, points),
    "no step is downhill": lambda: lambda points: (-points.sum(1), torch.ones_like(points)),
}


@pytest.mark.parametrize("iterations", [0, 1, 2, 9, 60])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_bit_is_that_of_the_way_of_a_cpu(monkeypatch, name, iterations):
    function = FUNCTIONS[name]()
    start = torch.randn(3, 8, generator=generator(5), dtype=torch.float64) - 2
    before = minimise(function, start, iterations=iterations, tolerance=1e-7, history=4)
    monkeypatch.setattr(logistic, "is_asynchronous", lambda _: True)
    equal(minimise(function, start, iterations=iterations, tolerance=1e-7, history=4), before)


def test_the_function_is_asked_no_more_often(monkeypatch):
    """It is the pass over all rows that costs; directions found in vain cost little."""
    asked = []

    def counted(points):
        asked.append(1)
        return walls(points)

    start = torch.randn(3, 8, generator=generator(5), dtype=torch.float64) - 2
    minimise(counted, start, iterations=30, tolerance=1e-9)
    before = len(asked)
    monkeypatch.setattr(logistic, "is_asynchronous", lambda _: True)
    minimise(counted, start, iterations=30, tolerance=1e-9)
    assert len(asked) == 2 * before > 62  # some steps were halved


def test_a_regression_is_fitted_alike(monkeypatch):
    x, y = soft_rows(60, 5, 3)
    given = {"iterations": 40, "tolerance": 1e-8, "device": torch.device("cpu")}
    weights, minimum = fit(chunks(x, y, 25), 5, 3, (0.0, 1e-3, 0.1), **given)
    monkeypatch.setattr(logistic, "is_asynchronous", lambda _: True)
    again, other = fit(chunks(x, y, 25), 5, 3, (0.0, 1e-3, 0.1), **given)
    assert torch.equal(weights, again)
    equal(minimum, other)
