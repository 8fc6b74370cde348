"""Cycles across images: the truth table by hand, and groups against loops."""

from __future__ import annotations

import torch
from bank_reference import PATCHES, fill, random
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.pretrain.cribo.bank import Bank
from densebench.pretrain.cribo.cycles import cycle_consistent

BATCH = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # two images with an object each


def matched(bank, batch, view=0, group=0):
    """Which objects close their cycle, from `view` on."""
    places, found = bank.nearest(view, batch, torch.arange(len(batch)) + 50)
    return (
        found & cycle_consistent(bank.at(1 - view, places), batch, torch.ones(batch.shape[:2], dtype=torch.bool), group)
    ).tolist()


def test_the_truth_table_of_cycles():
    bank = Bank(3, 1, 2, PATCHES)
    one = torch.tensor([[[1.0, 0.1]], [[0.1, 1.0]], [[-1.0, 0.0]]])
    two = torch.tensor([[[1.0, 0.2]], [[0.9, 0.1]], [[0.0, -1.0]]])
    fill(bank, torch.stack([one, two]))
    assert matched(bank, BATCH) == [[True], [False]]  # the second comes back to the first
    # the other way: object 0 -> (.9, .1) -> (.1, 1) -> object 1; object 1 -> (1, .2) -> (1, .1) -> object 0
    assert matched(bank, BATCH, view=1) == [[False], [False]]


def test_an_empty_bank_closes_no_cycle():
    assert matched(Bank(3, 1, 2, PATCHES), BATCH) == [[False], [False]]


def test_a_bank_like_the_batch_closes_every_cycle():
    batch = random(4, 3, 5)
    bank = Bank(4, 3, 5, PATCHES)
    fill(bank, torch.stack([batch, batch]))
    assert matched(bank, batch) == [[True] * 3] * 4
    assert matched(bank, batch, view=1, group=2) == [[True] * 3] * 4


def naive_cycle(jumped, objects, valid, group):
    images, k = valid.shape
    size = group or images
    result = []
    for i in range(images):
        first = i // size * size
        rivals = [(m, n) for m in range(first, min(first + size, images)) for n in range(k) if valid[m, n]]
        row = []
        for j in range(k):
            cosines = {rival: torch.cosine_similarity(jumped[i, j], objects[rival], dim=0).item() for rival in rivals}
            row.append(bool(rivals) and max(cosines, key=cosines.__getitem__) == (i, j))
        result.append(row)
    return result


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 6), st.floats(0.1, 2.0), st.integers(0, 99))
def test_cycles_equal_the_naive_restatement(b, k, group, noise, seed):
    objects = random(b, k, 3, seed=seed)
    lengths = 0.1 + torch.rand(b, k, 1, generator=torch.Generator().manual_seed(seed))
    jumped = (objects + noise * random(b, k, 3, seed=seed + 1)) * lengths
    valid = torch.rand(b, k, generator=torch.Generator().manual_seed(seed)) < 0.7
    found = cycle_consistent(jumped, objects * lengths.flip(0), valid, group)
    assert (found & valid).tolist() == naive_cycle(jumped, objects * lengths.flip(0), valid, group)


def test_a_smaller_group_has_fewer_rivals():
    jumped = torch.tensor([[[1.0, 0.0]], [[1.0, 0.1]], [[1.0, 0.2]]])
    objects = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[-1.0, 1.0]]])
    every = torch.ones(3, 1, dtype=torch.bool)
    assert cycle_consistent(jumped, objects, every).flatten().tolist() == [True, False, False]
    assert cycle_consistent(jumped, objects, every, 2).flatten().tolist() == [True, False, True]
    assert cycle_consistent(jumped, objects, every, 1).all()


def test_objects_that_are_not_there_are_no_rivals():
    jumped = torch.tensor([[[1.0, 0.0], [0.9, 0.1]]])
    objects = torch.tensor([[[1.0, 0.5], [1.0, 0.0]]])
    assert cycle_consistent(jumped, objects, torch.tensor([[True, True]])).tolist() == [[False, True]]
    assert cycle_consistent(jumped, objects, torch.tensor([[True, False]]))[0, 0]
    assert not cycle_consistent(jumped, objects, torch.tensor([[True, False]]))[0, 1]


def test_a_batch_without_objects_closes_no_cycle():
    found = cycle_consistent(random(2, 2, 3), random(2, 2, 3), torch.zeros(2, 2, dtype=torch.bool))
    assert found.shape == (2, 2)
    assert not found.any()
