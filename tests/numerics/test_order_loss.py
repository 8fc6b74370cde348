"""The loss between orders: against loops, by hand, its floor, its weights, and what gradients reach."""

from __future__ import annotations

import math

import pytest
import torch
from sorting_reference import (
    EVERY,
    FLOOR,
    NETWORKS,
    SWAPS,
    Meter,
    cosines,
    exactly,
    options,
    problem,
    reference_loss,
    reference_sort,
    shuffled,
    value_and_gradient,
)
from tiers import late

from densebench.numerics import sorting
from densebench.numerics.sorting import order_loss, soft_sort


def test_the_memory_of_the_loss_is_that_of_a_chunk(monkeypatch):
    def peak(rows, chunk):
        student, teacher, weights = problem(rows, 16, dtype=torch.float32)
        monkeypatch.setattr(sorting, "CHUNK_BYTES", chunk)
        student.requires_grad_(True)
        with Meter(student, teacher, weights) as meter:
            order_loss(student, teacher, weights, **options(both=True)).backward()
        assert student.grad.abs().max() > 0
        return meter.peak

    inputs, matrices, chunk = 4 * 512 * 16, 4 * 512 * 16 * 16, 1 << 18
    assert peak(512, 1 << 40) > 2 * matrices, "the meter sees what is alive"
    bounded = peak(512, chunk)
    assert inputs <= bounded <= 2 * chunk + 4 * inputs
    assert peak(1024, chunk) - bounded <= 4 * inputs, "twice the rows take no more than their inputs and gradients do"


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("network", "swap"), EVERY)
@pytest.mark.parametrize("count", [2, 5, 8])
def test_loss_and_gradient_equal_the_restatement(count, network, swap, both):
    """The steepness differs between the two sides, and so does the weight of every row."""
    student, teacher, weights = problem(4, count, seed=22)
    how = options(network=network, swap=swap, both=both)
    expected = value_and_gradient(lambda x: reference_loss(x, teacher, weights, how), student)
    found = value_and_gradient(lambda x: order_loss(x, teacher, weights, **how), student)
    assert found[0].shape == ()
    torch.testing.assert_close(found[0], expected[0], atol=0, rtol=1e-10)
    torch.testing.assert_close(found[1], expected[1], atol=1e-10 * float(expected[1].abs().max()), rtol=1e-8)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    "ranks", [slice(None), slice(-3, None), slice(0, 2), slice(3, 4), slice(1, 6, 2), slice(2, -1), slice(-100, 100)], ids=str
)
def test_loss_over_some_ranks(ranks, both):
    """Ranks are columns, and the number of them divides."""
    student, teacher, weights = problem(3, 7, seed=23)
    how = options(ranks=ranks, both=both)
    expected = value_and_gradient(lambda x: reference_loss(x, teacher, weights, how), student)
    found = value_and_gradient(lambda x: order_loss(x, teacher, weights, **how), student)
    torch.testing.assert_close(found[0], expected[0], atol=0, rtol=1e-10)
    torch.testing.assert_close(found[1], expected[1], atol=1e-10 * float(expected[1].abs().max()), rtol=1e-8)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("chunk", [1, *range(4000, 68000, 8000), 1 << 40])
def test_chunks_change_nothing(monkeypatch, chunk, both):
    """Chunks of one row, of all seven, and of numbers in between that leave a rest."""
    student, teacher, weights = problem(7, 6, seed=24)
    how = options(both=both, ranks=slice(1, 5))
    expected = value_and_gradient(lambda x: reference_loss(x, teacher, weights, how), student)
    monkeypatch.setattr(sorting, "CHUNK_BYTES", chunk)
    found = value_and_gradient(lambda x: order_loss(x, teacher, weights, **how), student)
    torch.testing.assert_close(found[0], expected[0], atol=0, rtol=1e-10)
    torch.testing.assert_close(found[1], expected[1], atol=1e-10 * float(expected[1].abs().max()), rtol=1e-8)


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("both", late([False, True], True))
def test_float32_loss_is_as_exact_as_the_restatement_in_float32(swap, both):
    """49 similarities at steepness 100: products of small shares must not drown in the rounding of large ones.

    With the Cauchy swap no entry is small and both follow float64. With the others a share next to 1 rounds, which costs the
    restatement itself up to a few per cent; the loss may be off by twice that.
    """
    student, teacher, weights = problem(16, 49, seed=27, dtype=torch.float32)
    how = options(steepness=100.0, teacher_steepness=100.0, swap=swap, both=both)

    def composed(x, dtype):
        p = reference_sort(x, 100.0, "bitonic", swap)[1]
        q = reference_sort(teacher.to(dtype), 100.0, "bitonic", swap)[1]
        losses = -(q * p.clamp(min=FLOOR).log()).sum((1, 2)) / 49
        if both:
            losses = losses - (p * q.clamp(min=FLOOR).log()).sum((1, 2)) / 49
        return (weights.to(dtype) * losses).sum()

    exact = value_and_gradient(lambda x: composed(x, torch.float64), student.double())
    plain = value_and_gradient(lambda x: composed(x, torch.float32), student)
    found = value_and_gradient(lambda x: order_loss(x, teacher, weights, **how), student)
    for ours, theirs, true in zip(found, plain, exact, strict=True):
        assert ours.dtype == torch.float32
        scale = true.abs().max()
        off, allowed = ((one.double() - true).abs().max() / scale for one in (ours, theirs))
        assert off <= 1e-4 + 2 * allowed, f"off by {float(off):.1e}, the restatement by {float(allowed):.1e}"
        if swap == "cauchy":
            assert off <= 2e-3


@pytest.mark.parametrize(("dtype", "exponent"), [(torch.float32, 10.0), (torch.float32, 20.0), (torch.float64, 45.0)])
def test_small_shares_keep_their_digits(dtype, exponent):
    """What stays on the wrong wire is e^-exponent, below the rounding of 1: of 1 - (1 - share) few digits are right, or none."""
    values = torch.tensor([[exponent, 0.0]], dtype=dtype)
    expected = math.exp(-exponent) / (1 + math.exp(-exponent))
    for network in NETWORKS:
        _, permutation = soft_sort(values, 1.0, network=network, swap="logistic")
        assert permutation.diagonal(dim1=1, dim2=2).double().tolist() == [[pytest.approx(expected, rel=1e-4, abs=0)] * 2]


def test_loss_of_two_values_in_closed_form():
    """P = [[s, 1-s], [1-s, s]] and Q likewise with t: -t ln s - (1-t) ln(1-s) for each of the two ranks."""
    student, teacher = exactly([[0.3, 0.1]]), exactly([[0.0, 0.05]])
    s, t = math.atan(-0.2 * 20) / math.pi + 0.5, math.atan(0.05 * 30) / math.pi + 0.5
    forward, backward = -t * math.log(s) - (1 - t) * math.log(1 - s), -s * math.log(t) - (1 - s) * math.log(1 - t)
    weights = exactly([0.7])
    assert float(order_loss(student, teacher, weights, **options())) == pytest.approx(0.7 * forward, rel=1e-12)
    both = float(order_loss(student, teacher, weights, **options(both=True)))
    assert both == pytest.approx(0.7 * (forward + backward), rel=1e-12)
    one = float(order_loss(student, teacher, weights, **options(ranks=slice(1, 2))))
    assert one == pytest.approx(0.7 * forward, rel=1e-12)


@pytest.mark.parametrize(("network", "swap"), EVERY)
def test_no_order_is_closer_to_the_teachers_than_its_own(network, swap):
    """Gibbs: CE(Q, P) >= CE(Q, Q) row by row, where all ranks count."""
    _, teacher, _ = problem(1, 9, seed=28)
    how = options(steepness=20.0, teacher_steepness=20.0, network=network, swap=swap)
    own = float(order_loss(teacher, teacher, torch.ones(1).double(), **how))
    _, q = reference_sort(teacher, 20.0, network, swap)
    assert own == pytest.approx(float(-(q * q.clamp(min=FLOOR).log()).sum() / 9), rel=1e-10)
    for seed in range(20):
        away = teacher + cosines(1, 9, seed=seed) * 10.0 ** -(seed % 4)
        assert float(order_loss(away, teacher, torch.ones(1).double(), **how)) > own
    _, gradient = value_and_gradient(lambda x: order_loss(x, teacher, torch.ones(1).double(), **how), teacher)
    assert gradient.abs().max() < 1e-10, "the minimum has no slope"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_hard_orders_cost_nothing_and_others_the_floor(network, dtype):
    values = shuffled(3, 6, seed=29, dtype=dtype)
    how = options(steepness=1e4, teacher_steepness=1e4, network=network, swap="logistic", both=True)
    loss, gradient = value_and_gradient(lambda x: order_loss(x, 2 * values, torch.ones(3, dtype=dtype), **how), values)
    assert float(loss) == 0
    assert (gradient == 0).all()
    turned, gradient = value_and_gradient(lambda x: order_loss(-x, values, torch.ones(3, dtype=dtype), **how), values)
    assert float(turned) == pytest.approx(-3 * 2 * math.log(FLOOR), rel=1e-5)  # 3 rows, both ways, every input elsewhere
    assert torch.isfinite(gradient).all()


def test_entries_below_the_floor_have_no_slope():
    """A share of e^-47 = 3.9e-21 counts as 1e-20 whatever the student does, so only the other column's terms pull."""
    student, teacher = exactly([[0.47, 0.0]]), exactly([[0.0, 0.01]])
    how = options(steepness=100.0, teacher_steepness=100.0, swap="logistic")
    weights = torch.ones(1).double()
    expected = value_and_gradient(lambda x: reference_loss(x, teacher, weights, how), student)
    found = value_and_gradient(lambda x: order_loss(x, teacher, weights, **how), student)
    t = 1 / (1 + math.exp(-1))
    assert float(found[0]) == pytest.approx(-t * math.log(FLOOR), rel=1e-10)
    torch.testing.assert_close(found[1], expected[1], atol=1e-12, rtol=0)
    assert found[1].abs().max() < 1e-9
    above, _ = value_and_gradient(lambda x: order_loss(x, teacher, weights, **how), exactly([[0.45, 0.0]]))
    assert float(above) == pytest.approx(45 * t, rel=1e-6)


def test_the_floor_is_the_teachers_too():
    student, teacher = exactly([[0.0, 0.01]]), exactly([[0.6, 0.0]])
    how = options(steepness=100.0, teacher_steepness=100.0, swap="logistic", both=True)
    s, weights = 1 / (1 + math.exp(-1)), torch.ones(1).double()
    loss, gradient = value_and_gradient(lambda x: order_loss(x, teacher, weights, **how), student)
    # ranks: the student has share s on the diagonal, where the teacher has 0, and 1 - s beside it, where the teacher has 1
    assert float(loss) == pytest.approx(-math.log(1 - s) - s * math.log(FLOOR), rel=1e-9)
    slope = 100 * (s - s * (1 - s) * math.log(FLOOR))
    torch.testing.assert_close(gradient, exactly([[-slope, slope]]), atol=1e-6, rtol=1e-9)


def test_the_teacher_gets_no_gradient():
    student, teacher, weights = problem(3, 6, seed=30)
    for both in (False, True):
        student, teacher = student.detach().requires_grad_(True), teacher.detach().requires_grad_(True)
        order_loss(student, teacher, weights, **options(both=both)).backward()
        assert student.grad.abs().max() > 0
        assert teacher.grad is None or not teacher.grad.any()


def test_a_tensor_that_is_both_sides_gets_the_students_gradient_only():
    values, _, weights = problem(3, 6, seed=31)
    how = options(both=True)
    alone = value_and_gradient(lambda x: order_loss(x, values, weights, **how), values)[1]
    shared = value_and_gradient(lambda x: order_loss(x, x, weights, **how), values)[1]
    assert alone.abs().max() > 1e-3
    torch.testing.assert_close(shared, alone, atol=1e-14, rtol=1e-12)


def test_gradient_passes_on_what_comes_from_above_and_below():
    student, teacher, weights = problem(3, 6, seed=32)
    plain = value_and_gradient(lambda x: order_loss(x, teacher, weights, **options()), student)[1]
    scaled = value_and_gradient(lambda x: -2.5 * order_loss(3 * (x / 3), teacher, weights, **options()) + 1, student)[1]
    torch.testing.assert_close(scaled, -2.5 * plain, atol=1e-13, rtol=1e-10)
    twice = value_and_gradient(
        lambda x: order_loss(x, teacher, weights, **options()) + order_loss(x, teacher, weights, **options()).square(), student
    )
    loss = float(order_loss(student, teacher, weights, **options()))
    torch.testing.assert_close(twice[1], (1 + 2 * loss) * plain, atol=1e-12, rtol=1e-10)


def test_the_value_needs_no_gradient():
    student, teacher, weights = problem(3, 6, seed=33)
    expected = order_loss(student.clone().requires_grad_(True), teacher, weights, **options())
    assert expected.requires_grad
    expected = float(expected.detach())
    plain = order_loss(student, teacher, weights, **options())
    assert not plain.requires_grad
    with torch.no_grad():
        quiet = order_loss(student.clone().requires_grad_(True), teacher, weights, **options())
    assert float(plain) == float(quiet) == pytest.approx(expected, rel=1e-12)


def test_the_loss_never_writes_to_its_inputs():
    student, teacher, weights = problem(3, 6, seed=34)
    copies = student.clone(), teacher.clone(), weights.clone()
    value_and_gradient(lambda x: order_loss(x.T.contiguous().T, teacher, weights, **options(both=True)), student)
    for now, before in zip((student, teacher, weights), copies, strict=True):
        assert torch.equal(now, before)


def test_weights_multiply_rows():
    """The loss is the weighted sum of what rows cost alone; a row of weight 0 pulls nowhere."""
    student, teacher, _ = problem(4, 6, seed=35)
    alone = [
        value_and_gradient(
            lambda x, row=row: order_loss(x, teacher[row, None], torch.ones(1).double(), **options()), student[row, None]
        )
        for row in range(4)
    ]
    weights = exactly([0.5, 0.0, 2.0, 0.125])
    loss, gradient = value_and_gradient(lambda x: order_loss(x, teacher, weights, **options()), student)
    assert float(loss) == pytest.approx(sum(float(w) * float(one[0]) for w, one in zip(weights, alone, strict=True)), rel=1e-12)
    torch.testing.assert_close(gradient, weights[:, None] * torch.cat([one[1] for one in alone]), atol=1e-13, rtol=1e-10)
    assert (gradient[1] == 0).all()


def test_rows_of_the_loss_change_places_with_their_weights():
    student, teacher, weights = problem(5, 6, seed=36)
    order = torch.tensor([3, 0, 4, 2, 1])
    loss, gradient = value_and_gradient(lambda x: order_loss(x, teacher, weights, **options()), student)
    moved = value_and_gradient(lambda x: order_loss(x, teacher[order], weights[order], **options()), student[order])
    assert float(moved[0]) == pytest.approx(float(loss), rel=1e-12)
    torch.testing.assert_close(moved[1], gradient[order], atol=1e-13, rtol=1e-10)


def test_both_directions_are_symmetric():
    student, teacher, weights = problem(4, 7, seed=37)
    there = float(order_loss(student, teacher, weights, **options(steepness=20.0, teacher_steepness=30.0, both=True)))
    back = float(order_loss(teacher, student, weights, **options(steepness=30.0, teacher_steepness=20.0, both=True)))
    assert there == pytest.approx(back, rel=1e-12)
    one_way = float(order_loss(student, teacher, weights, **options(steepness=20.0, teacher_steepness=30.0)))
    other_way = float(order_loss(teacher, student, weights, **options(steepness=30.0, teacher_steepness=20.0)))
    assert abs(one_way - other_way) > 1e-2
    assert there == pytest.approx(one_way + other_way, rel=1e-12)


def test_descending_the_loss_orders_the_student_as_the_teacher():
    """In the odd-even network; the bitonic one has local minima on the way."""
    teacher = shuffled(6, 8, seed=38) / 8
    student = cosines(6, 8, seed=39).requires_grad_(True)
    optimiser = torch.optim.Adam([student], lr=0.1)
    assert (student.argsort(1) != teacher.argsort(1)).any(1).all()
    for _ in range(150):
        optimiser.zero_grad()
        how = options(steepness=30.0, network="odd-even")
        order_loss(student, teacher, torch.full((6,), 1 / 6).double(), **how).backward()
        optimiser.step()
    assert torch.equal(student.argsort(1), teacher.argsort(1))
