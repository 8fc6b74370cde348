"""Distillation: the cross-entropy and its gradients against autograd and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from distillation_reference import random, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.training import distillation
from densebench.training.distillation import distil


def case(groups=3, seen=4, taught=2, k=11, e=5, seed=0):
    """Random rows, prototypes, weights of pairs (a third of them zero, one group without any) and a centre."""
    mix = random(groups, seen, taught, seed=seed + 4).abs()
    mix[random(groups, seen, taught, seed=seed + 5) < -0.4] = 0
    if groups > 1:
        mix[1] = 0
    return [
        unit(groups, seen, e, seed=seed), unit(k, e, seed=seed + 1), unit(groups, taught, e, seed=seed + 2),
        unit(k, e, seed=seed + 3), mix, 0.3 * random(k, seed=seed + 6),
    ]  # fmt: skip


def plain(student, student_prototypes, teacher, teacher_prototypes, mix, centre, student_temp, teacher_temp):
    """Softmax cross-entropy of every pair, pair by pair, by autograd in double precision."""
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        targets = ((teacher @ teacher_prototypes.T - centre) / teacher_temp).softmax(-1)
    for g in range(mix.shape[0]):
        for s in range(mix.shape[1]):
            for t in range(mix.shape[2]):
                logs = (student_prototypes @ student[g, s] / student_temp).log_softmax(-1)
                total = total - mix[g, s, t] * (targets[g, t] * logs).sum()
    return total


def both(parts, student_temp=0.1, teacher_temp=0.07):
    """Loss and gradients (student rows, student prototypes) of the fused and of the plain loss."""
    results = []
    for function, dtype in ((distil, torch.float32), (plain, torch.float64)):
        own = [part.detach().to(dtype).clone() for part in parts]
        own[0].requires_grad_()
        own[1].requires_grad_()
        loss = function(*own, student_temp, teacher_temp)
        loss.backward()
        results.append([loss.detach().double(), own[0].grad.double(), own[1].grad.double()])
    return results


def test_by_hand():
    axes = torch.eye(2)
    student, teacher = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 0.0]]])
    p, q = 1 / (1 + math.exp(-1 / 0.5)), 1 / (1 + math.exp(-(1 - 0.4) / 0.25))
    loss = distil(student, axes, teacher, axes, torch.full((1, 1, 1), 0.5), torch.tensor([0.4, 0.0]), 0.5, 0.25)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(0.5 * -(q * math.log(p) + (1 - q) * math.log(1 - p)), rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 30), st.integers(0, 9999),
    st.sampled_from([0.1, 1.0]), st.sampled_from([0.04, 0.07, 1.0]),
)  # fmt: skip
def test_equals_autograd_on_every_pair(groups, seen, taught, k, seed, student_temp, teacher_temp):
    fused, naive = both(case(groups, seen, taught, k, seed=seed), student_temp, teacher_temp)
    for found, wanted in zip(fused, naive, strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("bytes_", [1, 44, 100, 500])
def test_chunks_change_nothing(monkeypatch, bytes_):
    parts = case(groups=7, seen=3, taught=2, k=11, seed=20)
    whole, naive = both(parts)
    monkeypatch.setattr(distillation, "CHUNK_BYTES", bytes_)
    chunked, _ = both(parts)
    for found, wanted, exact in zip(chunked, whole, naive, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found, exact, rtol=2e-5, atol=2e-5)


def test_a_gpu_starts_few_kernels(monkeypatch, cuda):
    """Four times as many rows at once: 8 groups of rows with 11 logits each are 8 chunks on the CPU and 2 on a GPU."""
    parts = case(groups=8, seen=3, taught=2, k=11, seed=20)
    counted = []
    for bytes_ in (1 << 20, 4 * 11 * 5):
        monkeypatch.setattr(distillation, "CHUNK_BYTES", bytes_)
        before = cuda.total("kernel")
        loss = distil(*(part.cuda() for part in parts), 0.1, 0.07)
        counted.append(cuda.total("kernel") - before)
        assert loss.item() == pytest.approx(both(parts)[0][0].item(), rel=1e-5)
    assert 1.4 < counted[1] / counted[0] <= 2


@pytest.mark.parametrize(("k", "level"), [(4096, 8.3178), (8192, 9.0109), (65536, 11.0904)])
def test_zero_logits_cost_ln_k(k, level):
    """A collapsed student, whatever the teacher says."""
    student = torch.zeros(1, 2, 4)
    mix = torch.tensor([[[0.25], [0.75]]])
    loss = distil(student, unit(k, 4), unit(1, 1, 4, seed=1), unit(k, 4, seed=2), mix, torch.zeros(k), 0.1, 0.04)
    assert loss.item() == pytest.approx(level, abs=1e-4)
    assert loss.item() == pytest.approx(math.log(k), rel=1e-5)


def test_a_student_that_says_what_the_teacher_says_has_no_gradient():
    rows, prototypes = unit(2, 1, 4), unit(9, 4, seed=1)
    student = rows.clone().requires_grad_()
    own = prototypes.clone().requires_grad_()
    centre = torch.zeros(9)
    loss = distil(student, own, rows, prototypes, torch.full((2, 1, 1), 0.5), centre, 0.1, 0.1)
    loss.backward()
    targets = (rows[:, 0] @ prototypes.T / 0.1).softmax(1)
    torch.testing.assert_close(loss.detach(), -(targets * targets.log()).sum(1).mean(), rtol=1e-5, atol=1e-6)
    assert student.grad.abs().max() < 1e-5
    assert own.grad.abs().max() < 1e-5


def test_nothing_but_the_student_learns():
    parts = [part.requires_grad_() for part in case()]
    distil(*parts, 0.1, 0.07).backward()
    assert [part.grad is not None for part in parts] == [True, True, False, False, False, False]


def test_frozen_prototypes_and_frozen_rows():
    fused, _ = both(case())
    for learning in (0, 1):
        parts = case()
        parts[learning].requires_grad_()
        distil(*parts, 0.1, 0.07).backward()
        torch.testing.assert_close(parts[learning].grad.double(), fused[1 + learning])
        assert parts[1 - learning].grad is None
    assert not distil(*case(), 0.1, 0.07).requires_grad


def test_the_gradient_scales_with_what_comes_after():
    fused, _ = both(case())
    parts = case()
    parts[0].requires_grad_()
    parts[1].requires_grad_()
    (-3 * distil(*parts, 0.1, 0.07) + parts[0].sum()).backward()
    torch.testing.assert_close(parts[0].grad.double(), -3 * fused[1] + 1, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts[1].grad.double(), -3 * fused[2], rtol=1e-5, atol=1e-5)


def test_rows_without_weight_get_a_gradient_of_zero():
    parts = case(groups=4, seen=3, taught=2, seed=7)
    parts[4][2, 1] = 0
    parts[0].requires_grad_()
    distil(*parts, 0.1, 0.07).backward()
    assert not parts[0].grad[1].any()
    assert not parts[0].grad[2, 1].any()
    assert parts[0].grad[2, 0].any()


def test_a_group_without_weight_adds_nothing():
    parts = case()  # group 1 has no weight
    rest = torch.tensor([0, 2])
    left_out = [part[rest] if number in (0, 2, 4) else part for number, part in enumerate(parts)]
    for found, expected in zip(both(parts)[0], both(left_out)[0], strict=True):
        if found.ndim == 3:
            assert not found[1].any()
            found = found[rest]
        torch.testing.assert_close(found, expected)


def test_no_pair_at_all_costs_nothing():
    parts = case()
    parts[4].zero_()
    parts[0].requires_grad_()
    parts[1].requires_grad_()
    loss = distil(*parts, 0.1, 0.07)
    loss.backward()
    assert loss.item() == 0
    assert not parts[0].grad.any()
    assert not parts[1].grad.any()


def test_invariances():
    student, own, teacher, other, mix, centre = case(seed=30)
    loss = distil(student, own, teacher, other, mix, centre, 0.1, 0.07)
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))
    renamed = distil(student, own[order], teacher, other[order], mix, centre[order], 0.1, 0.07)
    torch.testing.assert_close(renamed, loss)
    torch.testing.assert_close(distil(student, own, teacher, other, mix, centre + 5, 0.1, 0.07), loss, rtol=1e-4, atol=1e-4)
    g, s, t = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2]), torch.tensor([1, 0])
    moved = distil(student[g][:, s], own, teacher[g][:, t], other, mix[g][:, s][:, :, t], centre, 0.1, 0.07)
    torch.testing.assert_close(moved, loss)
    halves = [distil(student[a], own, teacher[a], other, mix[a], centre, 0.1, 0.07) for a in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(sum(halves), loss)


def test_mixed_precision_does_not_touch_the_loss():
    """Around the loss, matrix products are in half precision; in it, all is in single precision."""
    wanted = both(case())[0]
    with torch.autocast("cpu", torch.bfloat16):
        parts = [part.requires_grad_(i < 2) for i, part in enumerate(case())]
        loss = distil(*parts, 0.1, 0.07)
    loss.backward()
    assert loss.dtype == torch.float32
    for found, exact in zip((loss.detach(), parts[0].grad, parts[1].grad), wanted, strict=True):
        torch.testing.assert_close(found.double(), exact)
