"""The objective of multinomial logistic regression and its gradient, against a double loop over rows and classes in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from logistic_by_loops import chunks, f64, generator, naive, random_weights, soft_rows

from densebench.numerics.logistic import loss


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
