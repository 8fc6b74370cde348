"""The loss between whole views, the teacher's centre and its entropy."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from distillation_reference import random, unit

from densebench.training import distillation
from densebench.training.distillation import Centre, entropy
from densebench.training.heads import Head
from densebench.training.image_level import by_image, image_loss
from densebench.training.objective import StepContext


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
