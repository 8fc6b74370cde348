"""The regulariser that spreads the clusters, and the teacher's balancing: plain loops, closed forms, autograd's own check.

Sources: Su et al., FLSL, NeurIPS 2023, equations 9, 11 and 13 (KL of the mean assignment from the uniform one, which maximises
the volume that the clusters take); Caron et al., SwAV, NeurIPS 2020, section 3.1, for Sinkhorn-Knopp over a batch (Cuturi, 2013).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from densebench.training import distillation
from densebench.training.distillation import balance, volume


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unit(*shape, seed=0, dtype=torch.float64):
    return F.normalize(normal(*shape, seed=seed, dtype=torch.float64), dim=-1).to(dtype)


def volume_naively(student, prototypes, temperature):
    """KL(mean over rows || uniform), one number at a time."""
    rows, k = student.tolist(), len(prototypes)
    shares = [0.0] * k
    for row in rows:
        logits = [sum(x * y for x, y in zip(row, prototype, strict=True)) / temperature for prototype in prototypes.tolist()]
        largest = max(logits)
        exponentials = [math.exp(logit - largest) for logit in logits]
        shares = [share + value / sum(exponentials) / len(rows) for share, value in zip(shares, exponentials, strict=True)]
    return sum(share * math.log(share) for share in shares if share > 0) + math.log(k)


def by_autograd(student, prototypes, temperature):
    """The definition in plain torch, for its gradients; a share of 0 counts as 0 and sends nothing back."""
    shares = torch.softmax(student @ prototypes.T / temperature, 1).mean(0)
    kept = shares > 0
    return (shares[kept] * shares[kept].log()).sum() + math.log(len(prototypes))


def gradients(function, student, prototypes, temperature, factor=1.0):
    leaves = student.clone().requires_grad_(), prototypes.clone().requires_grad_()
    return torch.autograd.grad(function(*leaves, temperature) * factor, leaves)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(("n", "k", "e"), [(1, 4, 3), (7, 5, 3), (20, 3, 6), (40, 12, 4)])
def test_volume_is_the_naive_one(n, k, e, temperature):
    student, prototypes = normal(n, e, seed=1), normal(k, e, seed=2)  # of any length: nothing is normalised
    found = volume(student, prototypes, temperature)
    assert found.shape == ()
    assert found.item() == pytest.approx(volume_naively(student, prototypes, temperature), rel=1e-9, abs=1e-12)
    assert 0 <= found.item() <= math.log(k) + 1e-12


def test_volume_by_hand():
    """A tenth of a temperature makes assignments hard: uniform 0, one cluster ln K, half of the clusters ln 2."""
    prototypes = torch.eye(4)
    for temperature in (0.05, 0.1, 1.0):
        assert volume(torch.zeros(6, 4), prototypes, temperature).item() == pytest.approx(0, abs=1e-6)
    hard = 0.01
    assert volume(torch.eye(4)[[2] * 5], prototypes, hard).item() == pytest.approx(math.log(4), abs=1e-5)
    assert volume(torch.eye(4)[[0, 3, 3, 0]], prototypes, hard).item() == pytest.approx(math.log(2), abs=1e-5)
    assert volume(torch.eye(4)[[0, 0, 0, 1]], prototypes, hard).item() == pytest.approx(
        0.75 * math.log(0.75) + 0.25 * math.log(0.25) + math.log(4), abs=1e-5
    )


def test_it_is_the_mean_assignment_that_should_be_uniform_not_each_one():
    """Every row certain of a cluster of its own: 0, where the mean over rows of their own divergences would be ln 8."""
    assert volume(torch.eye(8), torch.eye(8), 0.01).item() == pytest.approx(0, abs=1e-5)
    mean = torch.eye(8).mean(0, keepdim=True)
    skewed = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    apart, merged = volume(skewed, torch.eye(2), 0.3), volume(skewed.mean(0, keepdim=True), torch.eye(2), 0.3)
    assert abs(apart - merged) > 0.05  # the mean of probabilities, not the probabilities of the mean
    assert volume(mean, torch.eye(8), 0.01).item() == pytest.approx(0, abs=1e-5)


def test_the_order_of_rows_and_of_prototypes_is_nothing_and_the_inputs_are_left_alone():
    student, prototypes = normal(9, 4), normal(6, 4, seed=1)
    before = student.clone(), prototypes.clone()
    found = volume(student, prototypes, 0.2)
    torch.testing.assert_close(volume(student.flip(0), prototypes, 0.2), found)
    torch.testing.assert_close(volume(student, prototypes.roll(2, 0), 0.2), found)
    torch.testing.assert_close(volume(torch.cat([student, student]), prototypes, 0.2), found)
    torch.testing.assert_close(volume(student, prototypes + normal(1, 4, seed=2), 0.2), found)  # a row's logits shift as one
    torch.testing.assert_close(volume(3 * student, prototypes, 0.6), found)
    assert torch.equal(student, before[0])
    assert torch.equal(prototypes, before[1])


@pytest.mark.parametrize("chunk", [None, 1, 8 * 5 * 3])
def test_gradients_are_exact(monkeypatch, chunk):
    if chunk:
        monkeypatch.setattr(distillation, "CHUNK_BYTES", chunk)
    student, prototypes = normal(7, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, p: volume(s, p, 0.4), (student, prototypes))
    assert torch.autograd.gradcheck(lambda s: volume(s, prototypes.detach(), 0.4), (student,))
    assert torch.autograd.gradcheck(lambda p: volume(student.detach(), p, 0.4), (prototypes,))


@pytest.mark.parametrize("factor", [1.0, 5.0, -0.25])
def test_gradients_take_the_factor_that_the_loss_gives_them(factor):
    student, prototypes = normal(8, 4), normal(6, 4, seed=1)
    found = gradients(volume, student, prototypes, 0.3, factor)
    for ours, wanted in zip(found, gradients(by_autograd, student, prototypes, 0.3, factor), strict=True):
        assert wanted.abs().max() > 1e-4
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("chunk", [1, 4 * 50 * 2, 4 * 50 * 7, 4 * 50 * 10, 4 * 50 * 64, 2**40])
def test_chunks_change_nothing(monkeypatch, chunk):
    """One row at a time, parts that do not divide the rows, and all at once: value and gradients."""
    student, prototypes = unit(33, 6, dtype=torch.float32), unit(50, 6, seed=1, dtype=torch.float32)
    wanted = by_autograd(student, prototypes, 0.1)
    slopes = gradients(by_autograd, student, prototypes, 0.1)
    monkeypatch.setattr(distillation, "CHUNK_BYTES", chunk)
    torch.testing.assert_close(volume(student, prototypes, 0.1), wanted, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(gradients(volume, student, prototypes, 0.1), slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        balance(student, prototypes, 0.1, 3), balanced_naively(student.double(), prototypes.double(), 0.1, 3).float()
    )


class Largest(TorchDispatchMode):
    """The most numbers that any tensor held which was made inside."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return found


def test_the_logits_of_all_rows_never_exist_at_once(monkeypatch):
    student, prototypes = normal(64, 3), normal(50, 3, seed=1)
    with Largest() as whole:
        gradients(volume, student, prototypes, 0.3)
    monkeypatch.setattr(distillation, "CHUNK_BYTES", 8 * 50 * 4)  # four rows of doubles
    with Largest() as parts:
        gradients(volume, student, prototypes, 0.3)
    assert whole.numbers >= 64 * 50
    assert parts.numbers <= 50 * 8


def test_clusters_that_nobody_chose_count_as_nothing():
    """Shares that are exactly 0: p ln p is 0, ln K counts them, and no gradient is infinite or missing."""
    student = torch.tensor([[1.0, 0.2], [0.9, 0.4], [0.7, 0.8]])
    prototypes = torch.tensor([[1.0, 0.0], [-4.0, -1.0], [0.0, 1.0], [-1.0, -3.0]])
    temperature = 0.005
    shares = torch.softmax(student @ prototypes.T / temperature, 1).mean(0)
    assert (shares == 0).tolist() == [False, True, False, True]  # in single precision they underflow
    found = volume(student, prototypes, temperature)
    kept = prototypes[[0, 2]]
    assert found.item() == pytest.approx(by_autograd(student, kept, temperature).item() + math.log(2), abs=1e-5)
    slope, pulls = gradients(volume, student, prototypes, temperature)
    wanted, wanted_pulls = gradients(by_autograd, student, kept, temperature)
    torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pulls[[0, 2]], wanted_pulls, rtol=1e-4, atol=1e-6)
    assert (pulls[[1, 3]] == 0).all()


def test_one_cluster_holds_all_with_certainty():
    """Fully collapsed: ln K, and gradients that are numbers."""
    student = torch.tensor([[1.0, 0.0]]).expand(5, 2).contiguous()
    prototypes = torch.tensor([[9.0, 0.0], [-9.0, 0.0], [-9.0, 1.0]])
    assert volume(student, prototypes, 0.01).item() == pytest.approx(math.log(3), abs=1e-6)
    for gradient in gradients(volume, student, prototypes, 0.01):
        assert gradient.isfinite().all()


def test_a_step_down_spreads_the_clusters():
    student, prototypes = unit(30, 4) + 1, unit(8, 4, seed=1)
    slope, pulls = gradients(volume, student, prototypes, 0.2)
    before = volume(student, prototypes, 0.2)
    assert volume(student - 0.05 * slope, prototypes, 0.2) < before - 1e-5
    assert volume(student, prototypes - 0.05 * pulls, 0.2) < before - 1e-5


def balanced_naively(teacher, prototypes, temperature, iterations):
    """The centre's recurrence in log space and double precision, one column at a time."""
    logits, k = (teacher.double() @ prototypes.double().T).tolist(), len(prototypes)
    centre = [0.0] * k
    for _ in range(iterations):
        masses = [0.0] * k
        for row in logits:
            values = [(logit - c) / temperature for logit, c in zip(row, centre, strict=True)]
            largest = max(values)
            total = sum(math.exp(value - largest) for value in values)
            masses = [mass + math.exp(value - largest) / total / len(logits) for mass, value in zip(masses, values, strict=True)]
        centre = [c + temperature * math.log(k * mass) for c, mass in zip(centre, masses, strict=True)]
    return torch.tensor(centre, dtype=torch.float64)


def assigned_naively(teacher, prototypes, temperature, iterations):
    """Sinkhorn-Knopp on the matrix itself: columns to 1 / K and rows to 1 / n in turns, rows last."""
    plan = torch.exp(teacher @ prototypes.T / temperature)
    n, k = plan.shape
    for _ in range(iterations):
        plan = plan / plan.sum(1, keepdim=True) / n
        plan = plan / plan.sum(0, keepdim=True) / k
    return plan / plan.sum(1, keepdim=True)


@pytest.mark.parametrize("temperature", [0.04, 0.07, 0.5])
@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
@pytest.mark.parametrize(("n", "k", "e"), [(12, 5, 4), (4, 9, 3), (1, 3, 6)])
def test_balanced_assignments_are_sinkhorns(n, k, e, iterations, temperature):
    teacher, prototypes = unit(n, e, seed=1), unit(k, e, seed=2)
    centre = balance(teacher, prototypes, temperature, iterations)
    assert centre.shape == (k,)
    found = torch.softmax((teacher @ prototypes.T - centre) / temperature, 1)
    torch.testing.assert_close(found, assigned_naively(teacher, prototypes, temperature, iterations))
    torch.testing.assert_close(centre.double(), balanced_naively(teacher, prototypes, temperature, iterations))


def test_balance_by_hand():
    """One row: its centre is its own assignment's logarithm, so that the balanced assignment is uniform at once."""
    teacher, prototypes = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.3, 0.0], [0.0, 5.0]]).double()
    p = 1 / (1 + math.exp(-3))
    centre = balance(teacher, prototypes, 0.1, 1)
    assert centre.tolist() == pytest.approx([0.1 * math.log(2 * p), 0.1 * math.log(2 * (1 - p))])
    assert torch.softmax((teacher @ prototypes.T - centre) / 0.1, 1).flatten().tolist() == pytest.approx([0.5, 0.5])


def test_many_iterations_make_the_clusters_equally_large():
    teacher, prototypes = unit(40, 5, seed=3) + 0.3, unit(7, 5, seed=4)
    masses = []
    for iterations in (0, 1, 3, 200):
        centre = balance(teacher, prototypes, 0.1, iterations)
        masses.append(torch.softmax((teacher @ prototypes.T - centre) / 0.1, 1).mean(0))
    spread = [mass.sub(1 / 7).abs().max().item() for mass in masses]
    assert spread[0] > spread[1] > spread[2] > spread[3]
    assert spread[0] > 0.05
    assert spread[3] < 1e-6


def test_no_iterations_no_centre():
    found = balance(unit(6, 3), unit(4, 3, seed=1), 0.1, 0)
    assert found.shape == (4,)
    assert (found == 0).all()


@pytest.mark.parametrize("iterations", [0, 3])
def test_balance_sends_nothing_back_and_leaves_its_inputs_alone(iterations):
    teacher, prototypes = unit(6, 3).requires_grad_(), unit(4, 3, seed=1).requires_grad_()
    before = teacher.detach().clone(), prototypes.detach().clone()
    found = balance(teacher, prototypes, 0.1, iterations)
    assert not found.requires_grad
    assert torch.equal(teacher.detach(), before[0])
    assert torch.equal(prototypes.detach(), before[1])


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("temperature", [0.04, 0.02, 0.01])
def test_balance_holds_where_a_cluster_is_all_but_empty(temperature, iterations):
    """Single precision, unit vectors: a mass of exp(-160) (at temperature 0.01) is no 0, and its logarithm no infinity."""
    teacher = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.96, 0.28]])
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = balance(teacher, prototypes, temperature, iterations)
    assert found.isfinite().all()
    wanted = balanced_naively(teacher, prototypes, temperature, iterations)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-4)
