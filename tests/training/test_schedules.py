"""Schedules: closed forms, a loop, where they begin and that they never end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.training.optimisation import cosine, stairs


def loop(base, end, steps, warmup, start):
    """Value by value."""
    values = []
    for step in range(steps):
        if step < warmup:
            share = step / (warmup - 1) if warmup > 1 else 0.0
            values.append(start + (base - start) * share)
        else:
            share = (step - warmup) / (steps - warmup)
            values.append(end + 0.5 * (base - end) * (1 + math.cos(math.pi * share)))
    return values


def test_by_hand():
    root = math.sqrt(2) / 4
    assert cosine(1, 0, 7, warmup=3).tolist() == pytest.approx([0, 0.5, 1, 1, 0.5 + root, 0.5, 0.5 - root])
    assert cosine(0.5, 0.1, 2).tolist() == pytest.approx([0.5, 0.3])
    assert cosine(1, 0, 4, warmup=2, start=0.4).tolist() == pytest.approx([0.4, 1, 1, 0.5])


def test_learning_rate_starts_at_zero_and_takes_its_base_twice():
    rates = cosine(5e-4, 1e-6, 100 * 13, warmup=10 * 13)
    assert rates[0] == 0
    assert rates[129] == rates[130] == pytest.approx(5e-4, rel=1e-12)
    assert (np.diff(rates[:130]) > 0).all()
    assert (np.diff(rates[130:]) < 0).all()


@pytest.mark.parametrize(("base", "end"), [(0.04, 0.4), (0.996, 1.0)])
def test_decay_and_momentum_start_at_their_base_and_never_reach_their_end(base, end):
    values = cosine(base, end, 500)
    assert values[0] == pytest.approx(base, rel=1e-14)
    assert (np.diff(values) > 0).all()
    assert values[-1] < end
    assert values[-1] == pytest.approx(end - (end - base) * (1 - math.cos(math.pi / 500)) / 2, rel=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(0, 40), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_equals_a_loop(steps, warmup, base, end, start):
    warmup = min(warmup, steps)
    values = cosine(base, end, steps, warmup, start)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, loop(base, end, steps, warmup, start), rtol=1e-12, atol=1e-12)


def test_a_warmup_longer_than_the_run_is_cut_off():
    assert cosine(1, 0, 3, warmup=5).tolist() == pytest.approx([0, 0.25, 0.5])
    assert cosine(1, 0, 5, warmup=5).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_a_cosine_is_symmetric_about_its_middle():
    values = cosine(0.3, 0.9, 20)
    np.testing.assert_allclose(values[1:] + values[:0:-1], 1.2)


def test_stairs_take_both_ends_and_hold():
    values = stairs(0.04, 0.07, 100 * 3, per_epoch=3, epochs=30)
    assert values.dtype == np.float64
    expected = [0.04 + 0.03 * min(step // 3, 29) / 29 for step in range(300)]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert (values[:3] == 0.04).all()
    assert (values[29 * 3 :] == 0.07).all()
    assert (values[: 29 * 3] < 0.07).all()


def test_stairs_by_hand():
    assert stairs(0.0, 1.0, 7, per_epoch=2, epochs=3).tolist() == [0, 0, 0.5, 0.5, 1, 1, 1]


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_stairs_of_a_short_run_are_cut_off(steps):
    assert stairs(0.0, 1.0, steps, per_epoch=2, epochs=5).tolist() == [0, 0, 0.25, 0.25, 0.5][:steps]


def test_without_warmup_the_temperature_is_constant():
    assert stairs(0.04, 0.07, 4, per_epoch=2, epochs=0).tolist() == [0.07] * 4


def test_one_epoch_of_stairs_is_one_at_the_start():
    assert stairs(0.04, 0.07, 6, per_epoch=2, epochs=1).tolist() == [0.04] * 2 + [0.07] * 4
