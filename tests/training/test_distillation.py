"""Distillation: the fused loss against autograd on whole matrices, pairs of views in a double loop, the centre, the entropy."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from densebench.training import distillation
from densebench.training.distillation import Centre, distil, entropy
from densebench.training.heads import Head
from densebench.training.image_level import by_image, image_loss
from densebench.training.objective import StepContext


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(random(*shape, seed=seed), dim=-1)


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


def test_a_group_without_weight_may_hold_anything():
    parts = case()
    clean = distil(*parts, 0.1, 0.07)
    parts[0][1] = float("nan")
    parts[2][1] = float("inf")
    parts[0].requires_grad_()
    parts[1].requires_grad_()
    loss = distil(*parts, 0.1, 0.07)
    loss.backward()
    assert loss.item() == clean.item()
    assert not parts[0].grad[1].any()
    assert parts[1].grad.isfinite().all()


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


class Fixed:
    """A network reduced to its prototypes."""

    def __init__(self, prototypes):
        self.head = SimpleNamespace(prototypes={"image": prototypes}.__getitem__)


@pytest.mark.parametrize(("seen", "taught"), [(2, 2), (10, 2), (3, 1)])
def test_image_loss_is_the_mean_over_pairs_of_different_views(seen, taught):
    """A student must say of each other view what the teacher says of a global one; equal views make no pair."""
    images, k, e = 3, 7, 4
    rows, targets = unit(images, seen, e), unit(images, taught, e, seed=1)
    own, other = unit(k, e, seed=2), unit(k, e, seed=3)
    centre = Centre(k, 0.9)
    centre.value.copy_(0.2 * random(k, seed=4))
    rows.requires_grad_()
    context = StepContext(step=0, epoch=0, epochs=1.0, scheduled={"teacher_temp": 0.05})
    loss = image_loss(rows, targets, Fixed(own), Fixed(other), centre, 0.1, context)
    total, pairs = 0.0, 0
    for t in range(taught):
        for s in range(seen):
            if s == t:
                continue
            for image in range(images):
                q = ((targets[image, t] @ other.T - centre.value) / 0.05).softmax(0)
                total -= float((q * (rows[image, s].detach() @ own.T / 0.1).log_softmax(0)).sum())
                pairs += 1
    assert pairs == images * (taught * seen - taught)
    assert loss.item() == pytest.approx(total / pairs, rel=1e-5)
    loss.backward()
    alone = rows.grad[:, 0].abs().sum()
    assert (alone == 0) == (taught == 1)  # one teacher view: the student's same view has no partner


def test_image_loss_keeps_images_apart_and_does_not_care_for_their_order():
    rows, targets, own = unit(4, 3, 5), unit(4, 2, 5, seed=1), unit(8, 5, seed=2)
    context = StepContext(step=0, epoch=0, epochs=1.0, scheduled={"teacher_temp": 0.05})

    def loss(chosen):
        return image_loss(rows[chosen], targets[chosen], Fixed(own), Fixed(own), Centre(8, 0.9), 0.1, context)

    whole = loss([0, 1, 2, 3])
    torch.testing.assert_close(loss([2, 0, 3, 1]), whole)
    torch.testing.assert_close((loss([0, 1]) + loss([2, 3])) / 2, whole)
    torch.testing.assert_close(sum(loss([i]) for i in range(4)) / 4, whole)


def test_image_loss_through_real_heads_never_reaches_the_teacher():
    student, teacher = (Head(6, {"image": 9}, hidden=8, bottleneck=4, fixed_norm=False) for _ in range(2))
    network, other = SimpleNamespace(head=student), SimpleNamespace(head=teacher)
    context = StepContext(step=0, epoch=0, epochs=1.0, scheduled={"teacher_temp": 0.05})
    loss = image_loss(student(random(3, 2, 6)), teacher(random(3, 2, 6)), network, other, Centre(9, 0.9), 0.1, context)
    loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_views_are_laid_side_by_side_by_image():
    vectors = torch.arange(6.0)[:, None]  # views one after the other: images 0 1 2 of view 0, then of view 1
    assert by_image(vectors, 2)[..., 0].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_first_centre_is_a_tenth_of_the_mean():
    centre = Centre(3, 0.9)
    assert centre.value.tolist() == [0, 0, 0]
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    centre.see(teacher)
    centre.commit(prototypes)
    assert centre.value.tolist() == pytest.approx([0.075, 0.025, 0.1 * (3 * 0.6 + 0.8) / 4])
    centre.see(teacher[1:2])
    centre.commit(prototypes)
    assert centre.value.tolist() == pytest.approx([0.9 * 0.075, 0.9 * 0.025 + 0.1, 0.09 * (3 * 0.6 + 0.8) / 4 + 0.1 * 0.8])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_centre_follows_the_mean_of_all_logits(momentum):
    centre = Centre(7, momentum)
    wanted = torch.zeros(7, dtype=torch.float64)
    for step in range(3):
        prototypes = unit(7, 4, seed=step)
        parts = [unit(2, 4, seed=10 + step), unit(3, 5, 4, seed=20 + step), unit(1, 4, seed=30 + step)]
        for part in parts:  # micro-batches of unequal size: a mean over rows, not of means
            centre.see(part)
        logits = torch.cat([part.reshape(-1, 4) for part in parts]).double() @ prototypes.double().T
        wanted = momentum * wanted + (1 - momentum) * logits.mean(0)
        centre.commit(prototypes)
        torch.testing.assert_close(centre.value.double(), wanted, rtol=1e-5, atol=1e-6)


def test_padding_does_not_enter_the_centre():
    rows, prototypes = unit(2, 5, 4), unit(6, 4, seed=1)
    held = torch.tensor([[True, True, False, False, True], [False, True, False, False, False]])
    masked, clean = Centre(6, 0.9), Centre(6, 0.9)
    padded = rows.clone()
    padded[~held] = 1e3
    masked.see(padded, held.float())
    clean.see(rows[held])
    masked.commit(prototypes)
    clean.commit(prototypes)
    torch.testing.assert_close(masked.value, clean.value)
    torch.testing.assert_close(clean.value, 0.1 * (rows[held] @ prototypes.T).mean(0))


def test_nothing_seen_nothing_moved():
    centre, prototypes = Centre(6, 0.9), unit(6, 4)
    centre.see(unit(3, 4, seed=1))
    centre.commit(prototypes)
    before = centre.value.clone()
    centre.commit(prototypes)
    assert torch.equal(centre.value, before)
    centre.see(unit(3, 4, seed=1), torch.zeros(3))
    centre.commit(prototypes)
    assert torch.equal(centre.value, before)
    assert before.any()


def test_a_broken_step_is_forgotten():
    centre, prototypes = Centre(6, 0.9), unit(6, 4)
    centre.see(torch.full((2, 4), float("nan")))
    centre.discard()
    centre.commit(prototypes)
    assert not centre.value.any()
    centre.see(unit(3, 4, seed=2))
    centre.commit(prototypes)
    torch.testing.assert_close(centre.value, 0.1 * (unit(3, 4, seed=2) @ prototypes.T).mean(0))


def test_the_centre_is_used_first_and_updated_after():
    centre, prototypes = Centre(6, 0.9), unit(6, 4)
    centre.see(unit(3, 4, seed=1))
    assert not centre.value.any()
    centre.commit(prototypes)
    assert centre.value.any()


def test_the_centre_is_saved_and_carries_no_gradient():
    centre = Centre(6, 0.9)
    rows, prototypes = unit(3, 4).requires_grad_(), unit(6, 4, seed=1).requires_grad_()
    centre.see(rows)
    centre.commit(prototypes)
    assert not centre.value.requires_grad
    assert list(centre.parameters()) == []
    other = Centre(6, 0.9)
    other.load_state_dict(centre.state_dict())
    assert torch.equal(other.value, centre.value)


def test_the_entropy_runs_from_zero_to_ln_k():
    uniform = entropy(torch.zeros(3, 4), unit(50, 4), torch.zeros(50), 0.04)
    assert uniform.item() == pytest.approx(math.log(50), rel=1e-5)
    certain = entropy(torch.eye(4), torch.eye(4), torch.zeros(4), 0.01)
    assert certain.item() == pytest.approx(0, abs=1e-6)
    halves = entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), torch.zeros(3), 0.01)
    assert halves.item() == pytest.approx(math.log(2), rel=1e-5)
    pulled = entropy(torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([1.0, 0.0]), 0.01)
    assert pulled.item() == pytest.approx(math.log(2), rel=1e-5)  # the centre takes the preference away


@pytest.mark.parametrize("bytes_", [1, 64, 1 << 20])
def test_the_entropy_is_the_mean_over_rows_in_any_chunks(monkeypatch, bytes_):
    monkeypatch.setattr(distillation, "CHUNK_BYTES", bytes_)
    rows, prototypes, centre = unit(9, 4), unit(13, 4, seed=1), 0.2 * random(13, seed=2)
    total = 0.0
    for row in rows:
        weights = [math.exp((float(row @ p) - float(c)) / 0.3) for p, c in zip(prototypes, centre, strict=True)]
        total -= sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
    assert entropy(rows, prototypes, centre, 0.3).item() == pytest.approx(total / 9, rel=1e-5)


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


def test_mixed_precision_does_not_touch_the_centre():
    rows, prototypes = unit(64, 16), unit(9, 16, seed=1)
    centre = Centre(9, 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        centre.see(rows)
        centre.see(rows, torch.ones(64))
    centre.commit(prototypes)
    assert centre.value.dtype == torch.float32
    torch.testing.assert_close(centre.value, 0.1 * (rows @ prototypes.T).mean(0))


def test_mixed_precision_does_not_touch_the_entropy():
    rows, prototypes = unit(64, 16), unit(50, 16, seed=1)
    wanted = entropy(rows, prototypes, torch.zeros(50), 0.04)
    with torch.autocast("cpu", torch.bfloat16):
        found = entropy(rows, prototypes, torch.zeros(50), 0.04)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
