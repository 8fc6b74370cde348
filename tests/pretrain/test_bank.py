"""CrIBo's memory bank: the ring by hand, and the search against loops."""

from __future__ import annotations

import math

import pytest
import torch
from bank_reference import PATCHES, fill, random
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.pretrain.cribo import bank as module
from densebench.pretrain.cribo import bank_search
from densebench.pretrain.cribo.bank import Bank


@pytest.fixture(autouse=True, params=[False, True], ids=["one pass", "two passes"])
def passes(request, monkeypatch):
    """A GPU searches in two passes and finds what one finds."""
    monkeypatch.setattr(Bank, "two_pass", request.param)


def numbered(numbers, k=2, d=3):
    """Objects that hold the number of their image: in the first view positive, in the second negative."""
    one = torch.tensor(numbers, dtype=torch.float32)[:, None, None].expand(-1, k, d) + torch.arange(k)[:, None] / 10
    return torch.stack([one, -one])


def contents(bank):
    return [number for number in bank.numbers.tolist() if number >= 0]


def test_the_ring_by_hand():
    bank = Bank(5, 2, 3, PATCHES)
    assert not bank.valid.any()
    fill(bank, numbered([10, 11]), numbers=[10, 11])
    fill(bank, numbered([12, 13]), numbers=[12, 13])
    assert bank.numbers.tolist()[:4] == [10, 11, 12, 13]
    assert bank.valid.tolist() == [[True, True]] * 4 + [[False, False]]
    fill(bank, numbered([14, 15]), numbers=[14, 15])
    assert bank.numbers.tolist() == [15, 11, 12, 13, 14]  # over the oldest one
    fill(bank, numbered([16]), numbers=[16])
    assert bank.numbers.tolist() == [15, 16, 12, 13, 14]
    assert bank.objects[0, :, 0, 0].tolist() == [15, 16, 12, 13, 14]
    assert bank.objects[1, :, 1, 2].tolist() == pytest.approx([-15.1, -16.1, -12.1, -13.1, -14.1])
    assert bank.labels.tolist() == [[n] * 4 for n in (15, 16, 12, 13, 14)]
    assert bank.crops[:, 1, 4].tolist() == [15, 16, 12, 13, 14]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 7), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_ring_holds_the_newest(capacity, batches):
    bank, entered = Bank(capacity, 2, 3, PATCHES), []
    for size in batches:
        numbers = [len(entered) + i for i in range(size)]
        fill(bank, numbered(numbers), numbers=numbers)
        entered += numbers
    assert sorted(contents(bank)) == entered[-capacity:]
    held = bank.numbers >= 0
    assert torch.equal(bank.valid.all(1), held)
    assert torch.equal(bank.objects[0, held, 0, 0], bank.numbers[held].float())
    assert torch.equal(bank.labels[held, 0].long(), bank.numbers[held])


def test_places_are_slots_then_objects():
    bank = Bank(4, 3, 2, PATCHES)
    objects = random(2, 4, 3, 2)
    fill(bank, objects)
    assert torch.equal(bank.at(0, torch.tensor([0, 5, 11])), objects[0, [0, 1, 3], [0, 2, 2]])
    assert torch.equal(bank.at(1, torch.tensor([[7], [2]])), objects[1, [2, 0], [1, 2]][:, None])


def test_objects_are_kept_as_they_are():
    bank = Bank(2, 1, 2, PATCHES)
    fill(bank, torch.full((2, 2, 1, 2), 30.0))
    assert (bank.at(0, torch.arange(2)) == 30).all()


def naive(bank, view, queries, numbers):
    """For each query the first place with the highest cosine; None where there is nothing to find."""
    result = []
    for image, number in zip(queries.tolist(), numbers.tolist(), strict=True):
        for query in image:
            best, place = -math.inf, None
            for slot, held in enumerate(bank.numbers.tolist()):
                for k in range(bank.valid.shape[1]):
                    if not bank.valid[slot, k] or held == number:
                        continue
                    other = bank.objects[view, slot, k].tolist()
                    cosine = sum(a * b for a, b in zip(query, other, strict=True)) / math.hypot(*query) / math.hypot(*other)
                    if cosine > best:
                        best, place = cosine, slot * bank.valid.shape[1] + k
            result.append(place)
    return result


def compare(bank, view, queries, numbers):
    places, found = bank.nearest(view, queries, numbers)
    assert places.shape == found.shape == queries.shape[:2]
    expected = naive(bank, view, queries, numbers)
    assert found.flatten().tolist() == [place is not None for place in expected]
    pairs = zip(places.flatten().tolist(), expected, strict=True)
    assert all(place == wanted for place, wanted in pairs if wanted is not None)
    assert places.min() >= 0
    assert places.max() < bank.valid.numel()


@pytest.mark.parametrize("tile", [None, 1, 60, 150, 400])
@pytest.mark.parametrize("entered", [3, 7, 10])
def test_the_search_equals_the_naive_restatement(monkeypatch, tile, entered):
    if tile is not None:
        monkeypatch.setattr(module, "TILE_BYTES", tile)
        monkeypatch.setattr(bank_search, "TILE_BYTES", tile)
    bank = Bank(7, 3, 4, PATCHES)
    for start in range(entered):
        valid = torch.rand(1, 3, generator=torch.Generator().manual_seed(start)) < 0.7
        fill(bank, random(2, 1, 3, 4, seed=start) * 3, valid, [start % 5])
    for view in (0, 1):
        compare(bank, view, random(4, 3, 4, seed=99), torch.tensor([0, 3, 4, 17]))


def test_objects_that_enter_after_a_search_are_found(monkeypatch):
    """Each image may hold more or fewer than the one whose place it takes."""
    monkeypatch.setattr(bank_search, "TILE_BYTES", 1)
    bank = Bank(5, 12, 4, PATCHES)
    for number in range(8):
        valid = torch.rand(1, 12, generator=torch.Generator().manual_seed(number)) < (number % 3 + 1) / 3
        fill(bank, random(2, 1, 12, 4, seed=number), valid, [number])
        compare(bank, number % 2, random(2, 3, 4, seed=99), torch.tensor([0, 50]))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.integers(0, 1), st.integers(0, 99))
def test_any_size_equals_the_naive_restatement(capacity, k, entered, b, view, seed):
    bank = Bank(capacity, k, 4, PATCHES)
    valid = torch.rand(entered, k, generator=torch.Generator().manual_seed(seed)) < 0.6
    fill(bank, random(2, entered, k, 4, seed=seed), valid, torch.arange(entered) % 4)
    compare(bank, view, random(b, k, 4, seed=seed + 1), torch.arange(b))


def test_the_search_is_by_direction():
    bank = Bank(2, 1, 2, PATCHES)
    fill(bank, torch.tensor([[[[9.0, 9.0]], [[0.1, 0.0]]]] * 2))
    places, found = bank.nearest(0, torch.tensor([[[5.0, 0.1]]]), torch.tensor([8]))
    assert places.tolist() == [[1]]
    assert found.all()


def test_each_view_has_its_own_bank():
    bank = Bank(2, 1, 2, PATCHES)
    fill(bank, torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]], [[[0.0, 1.0]], [[1.0, 0.0]]]]))
    query = torch.tensor([[[1.0, 0.0]]])
    assert bank.nearest(0, query, torch.tensor([8]))[0].tolist() == [[0]]
    assert bank.nearest(1, query, torch.tensor([8]))[0].tolist() == [[1]]


def test_an_opposite_object_is_found_where_there_is_no_other():
    """An empty place is not taken for an object of similarity 0."""
    bank = Bank(5, 2, 2, PATCHES)
    fill(bank, torch.tensor([[[[-1.0, 0.0], [0.0, 0.0]]]] * 2), torch.tensor([[True, False]]))
    places, found = bank.nearest(0, torch.tensor([[[1.0, 0.0], [2.0, 0.1]]]), torch.tensor([8]))
    assert places.tolist() == [[0, 0]]
    assert found.all()


def test_an_empty_bank_finds_nothing():
    _, found = Bank(4, 2, 3, PATCHES).nearest(0, random(3, 2, 3), torch.arange(3))
    assert not found.any()


def test_a_bank_without_valid_objects_finds_nothing():
    bank = Bank(4, 2, 3, PATCHES)
    fill(bank, random(2, 3, 2, 3), torch.zeros(3, 2, dtype=torch.bool))
    assert not bank.nearest(1, random(1, 2, 3), torch.tensor([8]))[1].any()


def test_an_image_is_not_matched_with_itself():
    bank = Bank(4, 1, 2, PATCHES)
    objects = torch.tensor([[[[1.0, 0.0]], [[0.8, 0.6]]]] * 2)
    fill(bank, objects, numbers=[3, 4])
    places, found = bank.nearest(0, objects[0], torch.tensor([3, 4]))
    assert places.tolist() == [[1], [0]]
    assert found.all()
    fill(bank, objects, numbers=[3, 3])
    alone = Bank(1, 1, 2, PATCHES)
    fill(alone, objects[:, :1], numbers=[3])
    assert alone.nearest(0, objects[0], torch.tensor([3, 5]))[1].tolist() == [[False], [True]]


def test_objects_that_are_not_there_may_ask_and_get_some_place():
    bank = Bank(4, 2, 3, PATCHES)
    fill(bank, random(2, 2, 2, 3))
    places, _ = bank.nearest(0, torch.zeros(2, 2, 3), torch.tensor([8, 9]))
    assert bank.at(1, places).isfinite().all()


def test_the_first_place_wins_a_tie(monkeypatch):
    monkeypatch.setattr(module, "TILE_BYTES", 1)
    monkeypatch.setattr(bank_search, "TILE_BYTES", 1)
    bank = Bank(6, 2, 2, PATCHES)
    fill(bank, torch.tensor([1.0, 0.0]).expand(2, 6, 2, 2).clone())
    assert bank.nearest(0, torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]), torch.tensor([0]))[0].tolist() == [[2, 2]]


def test_half_precision_banks_hold_and_find():
    bank = Bank(4, 2, 8, PATCHES, torch.bfloat16)
    objects = random(2, 4, 2, 8)
    fill(bank, objects)
    assert bank.objects.dtype == torch.bfloat16
    places, found = bank.nearest(0, objects[0], torch.arange(4) + 50)
    assert places.flatten().tolist() == list(range(8))
    assert found.all()


def test_the_bank_carries_no_gradient_and_is_part_of_the_state():
    bank = Bank(4, 2, 3, PATCHES)
    fill(bank, random(2, 2, 2, 3).requires_grad_().detach())
    assert not any(buffer.requires_grad for buffer in bank.buffers())
    other = Bank(4, 2, 3, PATCHES)
    other.load_state_dict(bank.state_dict())
    for one in (bank, other):
        fill(one, random(2, 3, 2, 3, seed=1), numbers=[7, 8, 9])
    assert all(torch.equal(a, b) for a, b in zip(bank.buffers(), other.buffers(), strict=True))
    assert bank.numbers.tolist() == [9, 1, 7, 8]
