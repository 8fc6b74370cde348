"""CrIBo's memory between steps, and what gradients and batches of any size reach."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from cribo_reference import Naive, build, close, context, gradients, remembered, views
from tiers import late

from densebench.pretrain.cribo import method as module
from densebench.training.augmentation import AugmentParams
from densebench.training.objective import Views


def test_nothing_is_matched_before_the_first_epochs_are_over():
    objective, student, teacher = remembered(bootstrap_after=2)
    assert objective(student, teacher, views(5), context(epoch=1)).terms["neighbour"] == 0
    assert objective(student, teacher, views(5), context(epoch=2)).terms["neighbour"] > 0


@pytest.mark.parametrize(
    ("epoch", "weight", "logging", "searches"), [(1, 1.0, False, 0), (1, 1.0, True, 2), (2, 1.0, False, 2), (2, 0.0, False, 0)]
)
def test_matches_are_searched_for_where_they_are_used_or_logged(monkeypatch, epoch, weight, logging, searches):
    objective, student, teacher = remembered(bootstrap_after=2, neighbour_weight=weight)
    begun, begin = [], objective.bank.begin
    monkeypatch.setattr(objective.bank, "begin", lambda *given: begun.append(given) or begin(*given))
    figures = objective(student, teacher, views(5), replace(context(epoch=epoch), logging=logging)).figures
    assert len(begun) == searches
    assert ("bootstrapping_ratio" in figures) == bool(searches)


@pytest.mark.parametrize("options", [{"bootstrap_after": 4}, {"neighbour_weight": 0.0}])
def test_a_figure_that_is_logged_changes_nothing_that_is_learned(options):
    learned = []
    for logging in (False, True):
        objective, student, teacher = remembered(**options)
        objective(student, teacher, views(5), replace(context(), logging=logging)).total.backward()
        objective.commit(teacher)
        learned.append([*gradients(student).values(), *objective.buffers()])
    for one, other in zip(*learned, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_an_empty_bank_gives_no_loss():
    objective, student, teacher = build()
    loss = objective(student, teacher, views(5), context())
    assert loss.terms["neighbour"] == 0
    close(loss.total, loss.terms["image"] + loss.terms["object"])
    loss.total.backward()


def test_an_image_is_not_its_own_neighbour():
    objective, student, teacher = build(cycle=False)
    for step in (1, 2):
        loss = objective(student, teacher, views(1, number=4), context(step=step))
        assert loss.terms["neighbour"] == 0
        objective.commit(teacher)
    assert objective(student, teacher, views(1, number=5), context()).terms["neighbour"] > 0


def test_no_gradient_reaches_the_teacher():
    objective, student, teacher = remembered(cycle=False)
    teacher.requires_grad_()
    objective(student, teacher, views(5), context()).total.backward()
    assert all(gradient is None for gradient in gradients(teacher).values())
    assert all(not buffer.requires_grad for buffer in objective.buffers())


def apart(monkeypatch, objective):
    """Make the views share no object."""
    cluster = objective.cluster

    def split(*arguments):
        labels, _ = cluster(*arguments)
        labels = torch.arange(18).div(9, rounding_mode="floor").expand_as(labels).to(labels.dtype).contiguous()
        return labels, module.from_labels(labels, objective.options.objects)

    monkeypatch.setattr(objective, "cluster", split)


@pytest.mark.parametrize("norm", ["official", "paper"])
def test_a_batch_without_objects(monkeypatch, norm):
    objective, student, teacher = remembered(neighbour_norm=norm)
    before = objective.object_centre.value.clone()
    apart(monkeypatch, objective)
    loss = objective(student, teacher, views(5), context())
    assert loss.terms["object"] == 0
    assert loss.terms["neighbour"] == 0
    assert all(figure.isfinite() for figure in loss.figures.values())
    loss.total.backward()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients(student).values())
    objective.commit(teacher)
    assert torch.equal(objective.object_centre.value, before)
    assert not objective.bank.valid[objective.bank.numbers < 5].any()
    objective(student, teacher, views(5, number=50), context())  # a bank with holes is searched


@pytest.mark.parametrize(
    "options", late([{}, {"group_size": 32}, {"neighbour_norm": "paper"}, {"objects": 2}], {}, {"neighbour_norm": "paper"})
)
def test_a_batch_of_one(options):
    objective, student, teacher = remembered(**options)
    batch = views(1)
    loss = objective(student, teacher, batch, context())
    naive = Naive(objective, student, teacher, batch, context())
    for name in ("image", "object", "neighbour"):
        close(loss.terms[name], getattr(naive, name)())
    loss.total.backward()
    objective.commit(teacher)


def state(objective):
    return copy.deepcopy(dict(objective.named_buffers()))


def test_forward_only_reads_the_memory_and_discard_forgets():
    objective, student, teacher = remembered()
    before = state(objective)
    first = objective(student, teacher, views(5, jitter=0.9), context())
    assert all(torch.equal(before[name], buffer) for name, buffer in objective.named_buffers())
    objective.discard()
    assert all(torch.equal(before[name], buffer) for name, buffer in objective.named_buffers())
    objective(student, teacher, views(3, seed=5, number=30), context())
    objective.commit(teacher)
    other, student, teacher = remembered()
    other(student, teacher, views(3, seed=5, number=30), context())
    other.commit(teacher)
    assert all(torch.equal(a, b) for a, b in zip(objective.buffers(), other.buffers(), strict=True))
    assert first.total.isfinite()


def test_commit_moves_centres_and_fills_the_bank():
    objective, student, teacher = build()
    batch = views(5, number=20)
    naive = Naive(objective, student, teacher, batch, context())
    before = state(objective)
    objective(student, teacher, batch, context())
    objective.commit(teacher)
    with torch.no_grad():
        logits = [teacher.head.prototypes("object") @ teacher.head(told) for both, _ in naive.objects.values() for told in both]
        expected = 0.9 * before["object_centre.value"] + 0.1 * torch.stack(logits).mean(0)
        torch.testing.assert_close(objective.object_centre.value, expected, atol=1e-5, rtol=1e-4)
        logits = [teacher.head.prototypes("image") @ teacher.head(vector) for told in naive.told for vector in told.image]
        expected = 0.9 * before["image_centre.value"] + 0.1 * torch.stack(logits).mean(0)
        torch.testing.assert_close(objective.image_centre.value, expected, atol=1e-5, rtol=1e-4)
    bank = objective.bank
    assert bank.numbers.tolist() == [20, 21, 22, 23, 24] + [-1] * 7
    assert set(map(tuple, bank.valid.nonzero().tolist())) == naive.objects.keys()
    for (i, k), (told, _) in naive.objects.items():
        for view in (0, 1):
            torch.testing.assert_close(bank.objects[view, i, k], told[view], atol=1e-5, rtol=1e-4)
    assert bank.labels[:5].tolist() == naive.labels
    for view in (0, 1):
        assert torch.equal(bank.crops[:5, view, :4], batch.draws[view].boxes)
        assert torch.equal(bank.crops[:5, view, 4] > 0.5, batch.draws[view].flips)


def test_all_parts_of_a_step_enter():
    objective, student, teacher = build()
    for part, size in enumerate((2, 3)):
        objective(student, teacher, views(size, number=10 * part), context())
    objective.commit(teacher)
    assert objective.bank.numbers[:5].tolist() == [0, 1, 10, 11, 12]
    objective(student, teacher, views(2, number=70), context())
    objective.commit(teacher)
    assert objective.bank.numbers[:7].tolist() == [0, 1, 10, 11, 12, 70, 71]  # nothing enters twice


def test_the_search_comes_before_the_batch_enters():
    objective, student, teacher = build(cycle=False)
    assert objective(student, teacher, views(5), context()).terms["neighbour"] == 0
    objective.commit(teacher)
    assert objective(student, teacher, views(5, number=50), context()).terms["neighbour"] > 0


def test_images_of_a_group_of_one_do_not_depend_on_their_batch():
    objective, _, teacher = remembered(group_size=1)
    batch = views(5)
    together = objective.cluster(torch.cat([teacher.encoder(pixels).patches for pixels in batch.pixels]), batch, context())[0]
    alone = Views(tuple(p[:2] for p in batch.pixels), tuple(AugmentParams(d.table[:2]) for d in batch.draws), batch.numbers[:2])
    few = objective.cluster(torch.cat([teacher.encoder(pixels).patches for pixels in alone.pixels]), alone, context())[0]
    assert torch.equal(few, together[:2])
