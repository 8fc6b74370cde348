"""The fit of multinomial logistic regression: scikit-learn's weights, and what an optimum must satisfy whatever the data are.

With C = 1 / (N l2); of two classes scikit-learn has one vector for the difference of both, and C = 2 / (N l2).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from logistic_by_loops import CPU, chunks, f64, generator, hard_rows, one_hot, quick, soft_rows
from sklearn.linear_model import LogisticRegression

from densebench.numerics.logistic import Minimum, fit


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
