"""The effective rank: cases worked out by hand, loops, invariances."""

from __future__ import annotations

import math

import pytest
import torch

from densebench.numerics.spectrum import drawn, effective_rank, rank_of


def rows(count=30, width=6, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * torch.linspace(2, 0.1, width) + 0.5


def orthogonal(size, columns, seed=0):
    drawn_rows = torch.randn(size, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn_rows).Q


def with_values(values, count):
    values = torch.tensor(values, dtype=torch.float64)
    return orthogonal(count, len(values)) * values @ orthogonal(len(values), len(values), seed=1).T


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0], 1.0), ([3.0, 3.0, 3.0, 3.0], 4.0), ([2.0, 1.0, 1.0], 2 * math.sqrt(2)), ([5.0, 0.0], 1.0)]
)
def test_effective_rank_of_known_singular_values(values, expected):
    # shares 1/2, 1/4, 1/4: entropy 1.5 log 2
    assert effective_rank(with_values(values, 9)) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_equals_a_loop_over_the_eigenvalues_of_the_products():
    matrix = rows().double()
    values = [math.sqrt(max(value, 0.0)) for value in torch.linalg.eigvalsh(matrix.T @ matrix).tolist()]
    entropy = 0.0
    for value in values:
        share = value / sum(values) + 1e-7
        entropy -= share * math.log(share)
    assert effective_rank(matrix) == pytest.approx(math.exp(entropy), rel=1e-9)


def test_the_matrix_is_not_centred():
    assert effective_rank(torch.ones(8, 3)) == pytest.approx(1.0, rel=1e-4)
    assert effective_rank(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(2.0, rel=1e-4)  # 1 if it were


def test_each_zero_adds_what_epsilon_says():
    assert rank_of(torch.tensor([1.0, 0.0, 0.0]).double()) == pytest.approx(math.exp(2e-7 * 16.118 - 1e-7), rel=1e-8)


def test_effective_rank_does_not_depend_on_scale_basis_and_order():
    matrix, expected = rows().double(), effective_rank(rows())
    changed = (matrix * 1000 @ orthogonal(6, 6))[torch.randperm(30, generator=torch.Generator().manual_seed(2))]
    assert effective_rank(changed) == pytest.approx(expected, rel=1e-6)


def test_nothing_has_rank_zero():
    assert effective_rank(torch.zeros(4, 3)) == effective_rank(torch.zeros(0, 3)) == 0.0


@pytest.mark.parametrize("matrix", [orthogonal(8, 3), orthogonal(8, 3).T], ids=["tall", "wide"])
def test_the_greatest_rank_is_the_smaller_side(matrix):
    assert effective_rank(matrix) == pytest.approx(3.0, rel=1e-5)


def test_drawn_tokens_are_in_order_distinct_and_always_the_same():
    numbered = torch.arange(50.0)[:, None]
    found = drawn(numbered, 20)
    assert torch.equal(found, drawn(numbered + 0, 20))
    assert len(found) == 20
    assert (found[1:] > found[:-1]).all()
    assert not torch.equal(found, drawn(numbered, 20, seed=1))
    assert found.max() > 40  # not only the first pictures
    assert torch.equal(drawn(numbered, 50), numbered)
    assert torch.equal(drawn(numbered, 99), numbered)
