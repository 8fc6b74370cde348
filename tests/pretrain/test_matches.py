"""Matches across images: weights against loops, what is compared with what, and groups without matches."""

from __future__ import annotations

import pytest
import torch
from bank_reference import PATCHES, fill, random
from cribo_reference import close, context, gradients, remembered, views
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.pretrain.cribo.bank import Bank
from densebench.pretrain.cribo.matches import in_other_view, match_weights, neighbours


def naive_weights(used, norm, group):
    """Half of one over the number of matches of the group in the direction (official: in the first), over groups."""
    _, images, count = used.shape
    size = min(group or images, images)
    starts = range(0, images, size)
    weights = torch.zeros(used.shape)
    for start in starts:
        part = used[:, start : start + size]
        for view in (0, 1):
            number = int(part[0 if norm == "official" else view].sum())
            for image in range(start, min(start + size, images)):
                for k in range(count):
                    if used[view, image, k] and number:
                        weights[view, image, k] = 1 / number / 2 / len(starts)
    return weights


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(0, 7), st.sampled_from(["official", "paper"]),
    st.sampled_from([0.0, 0.2, 0.7, 1.0]), st.integers(0, 99),
)  # fmt: skip
def test_weights_equal_the_naive_restatement(images, count, group, norm, share, seed):
    used = torch.rand(2, images, count, generator=torch.Generator().manual_seed(seed)) < share
    torch.testing.assert_close(match_weights(used, norm, group), naive_weights(used, norm, group))


def test_neighbours_come_from_the_bank_of_their_view():
    bank = Bank(3, 2, 4, PATCHES)
    one, two = random(3, 2, 4), random(3, 2, 4, seed=1)
    fill(bank, torch.stack([one, two]))
    indices = torch.tensor([[[5, 0]], [[2, 3]]])  # one image with two objects, in two views
    found = neighbours(bank, indices, torch.tensor([0, 3, 2]))
    torch.testing.assert_close(found, torch.stack([one.flatten(0, 1)[5], two.flatten(0, 1)[3], two.flatten(0, 1)[2]]))


def test_an_object_is_found_in_the_other_view():
    valid = torch.tensor([[True, False, True], [False, True, True]])
    rows = valid.flatten().nonzero()[:, 0].tolist()
    both = [(view, row) for view in (0, 1) for row in rows]
    chosen = [2, 6 + 0, 5, 6 + 4]
    found = in_other_view(valid, len(rows), torch.tensor(chosen))
    assert [both[place] for place in found.tolist()] == [(1, 2), (0, 0), (1, 5), (0, 4)]


def without(objective, keep, monkeypatch):
    """Make an objective use only the matches that `keep` leaves of the masks `[2 b k]`."""
    match = objective.match

    def fewer(*arguments):
        indices, masks = match(*arguments)
        return indices, keep(masks.clone())

    monkeypatch.setattr(objective, "match", fewer)


def cleared(*where):
    def keep(masks):
        for view, images in where:
            masks[view, images] = False
        return masks

    return keep


FIRST = slice(0, 2)  # the first group of two images


@pytest.mark.parametrize("norm", ["official", "paper"])
def test_a_group_without_matches_in_the_first_view(monkeypatch, norm):
    results = []
    for where in ([(0, FIRST)], [(0, FIRST), (1, FIRST)]):
        objective, student, teacher = remembered(neighbour_norm=norm, cycle=False, group_size=2)
        without(objective, cleared(*where), monkeypatch)
        loss = objective(student, teacher, views(5), context())
        loss.total.backward()
        results.append((loss.terms["neighbour"], gradients(student)))
    (some, gradient), (none, others) = results
    assert none > 0
    if norm == "paper":
        assert some > none
        return
    close(some, none.item())
    for name, value in gradient.items():
        if value is not None:
            torch.testing.assert_close(value, others[name], atol=1e-6, rtol=1e-4)


def test_matches_without_weight_may_hold_anything(monkeypatch):
    objective, student, teacher = remembered(cycle=False, group_size=2)
    without(objective, cleared((0, FIRST)), monkeypatch)
    clean = objective(student, teacher, views(5), context())
    match = objective.match

    def broken(*arguments):
        indices, masks = match(*arguments)
        objective.bank.objects[1, 11, 0] = torch.nan  # a row of the bank that nobody else gets
        indices[1, FIRST] = 11 * objective.options.objects
        return indices, masks

    monkeypatch.setattr(objective, "match", broken)
    loss = objective(student, teacher, views(5), context())
    loss.total.backward()
    assert loss.terms["neighbour"].isfinite()
    close(loss.terms["neighbour"], clean.terms["neighbour"].item())
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients(student).values())


def test_no_match_at_all(monkeypatch):
    objective, student, teacher = remembered(cycle=False)
    without(objective, torch.zeros_like, monkeypatch)
    loss = objective(student, teacher, views(5), context())
    loss.total.backward()
    assert loss.terms["neighbour"] == 0
    assert loss.figures["bootstrapping_ratio"] == 0
    close(loss.total, loss.terms["image"] + loss.terms["object"])
