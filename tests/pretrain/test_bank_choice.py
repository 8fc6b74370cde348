"""CrIBo's bank searches in one pass for a while where two passes have proven too little, and tries two again."""

from __future__ import annotations

import pytest
import torch
from bank_reference import PATCHES, fill, random
from simulated_cuda import simulate

from densebench.numerics.host_copy import HostCopy
from densebench.pretrain.cribo.bank import ONE_PASS_STEPS, Bank


def alike(images, seed=0):
    """Objects that two passes cannot tell apart, in two views."""
    return 1 + 1e-6 * random(2, images, 2, 6, seed=seed)


def held(objects):
    """A bank of these objects that searches in two passes."""
    bank = Bank(40, 2, 6, PATCHES)
    bank.two_pass = True
    fill(bank, objects)
    return bank


def found(bank, queries):
    """What is found for queries of other images, and how many were searched again."""
    before = bank.fallbacks
    nearest = bank.nearest(0, queries, torch.arange(100, 100 + len(queries)))
    return nearest, bank.fallbacks - before


def step(bank, objects):
    fill(bank, objects, numbers=torch.arange(200, 200 + objects.shape[1]))


def test_one_pass_for_a_while_after_two_have_proven_nothing():
    bank, queries = held(alike(40)), alike(3, seed=1)[0]
    assert found(bank, queries)[1] == 6
    assert found(bank, queries)[1] == 0  # in the same step, too
    for _ in range(ONE_PASS_STEPS):
        step(bank, alike(1, seed=2))
        assert found(bank, queries)[1] == 0
    step(bank, alike(1, seed=2))
    assert found(bank, queries)[1] == 6


def test_two_passes_stay_once_they_prove_enough():
    bank, queries = held(alike(40)), alike(3, seed=1)[0]
    found(bank, queries)
    for seed in range(1 + ONE_PASS_STEPS):
        step(bank, random(2, 2, 2, 6, seed=10 + seed))
    assert bank.one_pass_steps == 0
    found(bank, random(3, 2, 6, seed=4))
    assert bank.one_pass_steps == 0


@pytest.mark.parametrize(("alike_queries", "steps"), [(3, 0), (4, 1 + ONE_PASS_STEPS)])
def test_up_to_three_in_four_may_be_searched_again(alike_queries, steps):
    """Half of the objects are alike, and so are the queries that ask for them."""
    objects = random(2, 40, 2, 6, seed=5)
    objects[..., 0] = -1 - objects[..., 0].abs()
    objects[:, :20] = alike(20)
    bank = held(objects)
    queries = torch.cat([alike(2, seed=1)[0].flatten(0, 1)[:alike_queries], objects[0, 30:, 0][: 4 - alike_queries]])
    assert found(bank, queries[:, None])[1] == alike_queries
    assert bank.one_pass_steps == steps


def test_the_choice_changes_no_answer():
    objects, queries = alike(40), torch.cat([alike(3, seed=1)[0], random(3, 2, 6)])
    bank, one = held(objects), held(objects)
    one.two_pass = False
    for _ in range(2):
        for a, b in zip(found(bank, queries)[0], found(one, queries)[0], strict=True):
            assert torch.equal(a, b)
    assert bank.one_pass_steps


def test_the_choice_is_not_part_of_the_state():
    bank = held(alike(40))
    before = bank.state_dict().keys()
    found(bank, alike(3, seed=1)[0])
    assert bank.state_dict().keys() == before


@pytest.mark.parametrize("objects", [alike(40), random(2, 40, 2, 6)], ids=["one pass", "two passes"])
def test_neither_search_waits_for_all_that_was_queued(objects):
    with simulate() as report:
        bank = Bank(40, 2, 6, PATCHES).to("cuda")
        numbers, valid = torch.arange(40, device="cuda"), torch.rand(40, 2, device="cuda") < 0.8
        entered = torch.zeros(40, 2 * PATCHES, dtype=torch.long, device="cuda"), torch.zeros(40, 2, 5, device="cuda")
        entering, asked, before = objects.to("cuda"), valid[:5], report.counts.copy()
        for _ in range(3):
            bank.add(entering, valid, numbers, *entered)
            bank.nearest(0, entering[0, :5], numbers[:5] + 50, asked, HostCopy(asked.sum()))
        after, chosen = report.counts - before, bank.one_pass_steps
    assert bool(chosen) == (objects.std() < 0.1)
    assert not [key for key in after if key[0] in ("wait", "to host", "to device")]


def test_what_nobody_asked_for_is_not_searched_again(cuda):
    """Of three images' objects only one is asked for, but how many is not known on the host; none can be told apart."""
    bank = Bank(40, 2, 6, PATCHES).to("cuda")
    fill(bank, alike(40).to("cuda"), torch.ones(40, 2, dtype=torch.bool, device="cuda"), torch.arange(40, device="cuda"))
    valid = torch.tensor([[False, False], [True, False], [False, False]], device="cuda")
    bank.nearest(0, alike(3, seed=1)[0].to("cuda"), torch.arange(100, 103, device="cuda"), valid)
    assert bank.fallbacks == 1
