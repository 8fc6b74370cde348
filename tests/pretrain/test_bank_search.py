"""CrIBo's search in two passes where it is proven, where it is not, and with only the queries that are asked for."""

from __future__ import annotations

import math

import pytest
import torch
from bank_reference import PATCHES, fill, random

from densebench.numerics.host_copy import HostCopy
from densebench.pretrain.cribo import bank_search
from densebench.pretrain.cribo.bank import Bank, read_together


@pytest.fixture
def banks(monkeypatch):
    """Two banks of the same objects: one pass, and two."""
    banks = Bank(40, 4, 8, PATCHES), Bank(40, 4, 8, PATCHES)
    for bank, two in zip(banks, (False, True), strict=True):
        bank.two_pass = two
        fill(bank, random(2, 30, 4, 8), torch.rand(30, 4, generator=torch.Generator().manual_seed(1)) < 0.7, range(30))
    return banks


def test_two_passes_find_what_one_finds(banks):
    for view in (0, 1):
        one, two = (bank.nearest(view, random(50, 4, 8, seed=5), torch.arange(50)) for bank in banks)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert banks[1].fallbacks == 0


def test_objects_that_enter_later_are_found_too(banks):
    banks[1].nearest(0, random(1, 1, 8), torch.tensor([99]))  # rounds all objects
    new = random(2, 20, 4, 8, seed=7)
    for bank in banks:
        fill(bank, new, torch.ones(20, 4, dtype=torch.bool), range(100, 120))
    one, two = (bank.nearest(1, new[1], torch.arange(20)) for bank in banks)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_state_that_is_read_replaces_all_rounded_objects(banks):
    other = Bank(40, 4, 8, PATCHES)
    other.two_pass = True
    fill(other, random(2, 40, 4, 8, seed=9))
    other.nearest(0, random(1, 1, 8), torch.tensor([99]))
    other.load_state_dict(banks[0].state_dict())
    queries = random(9, 4, 8, seed=3)
    one, two = (bank.nearest(0, queries, torch.arange(9)) for bank in (banks[0], other))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("two", [False, True])
def test_only_valid_queries_have_matches(banks, two):
    valid = torch.rand(6, 4, generator=torch.Generator().manual_seed(2)) < 0.5
    queries, numbers = random(6, 4, 8, seed=3), torch.arange(6)
    indices, matched = banks[two].nearest(0, queries, numbers, valid, HostCopy(valid.sum()))
    every, _ = banks[two].nearest(0, queries, numbers)
    assert torch.equal(matched, valid)
    assert torch.equal(indices[valid], every[valid])
    assert (indices[~valid] == 0).all()


def test_more_equal_objects_than_candidates_are_searched_again():
    """All objects are equal but those of one image, which one query is like."""
    bank = Bank(50, 2, 3, PATCHES)
    bank.two_pass = True
    objects = torch.tensor([1.0, 0.0, 0.0]).repeat(2, 50, 2, 1)
    objects[:, 31, 1] = torch.tensor([0.0, 1.0, 0.0])
    fill(bank, objects)
    queries = torch.tensor([[[2.0, 0.1, 0.0], [0.1, 2.0, 0.0]]])
    indices, matched = bank.nearest(0, queries, torch.tensor([0]))
    assert indices.tolist() == [[2, 63]]
    assert matched.all()
    assert bank.fallbacks == 1


def test_searches_that_are_read_together_are_searched_again_apart():
    """One query of the first search and two of the second have more equals than there are candidates."""
    bank = Bank(50, 2, 3, PATCHES)
    bank.two_pass = True
    objects = torch.tensor([1.0, 0.0, 0.0]).repeat(2, 50, 2, 1)
    objects[:, 31, 1] = torch.tensor([0.0, 1.0, 0.0])
    fill(bank, objects)
    like, other = [2.0, 0.1, 0.0], [0.1, 2.0, 0.0]
    searches = [
        bank.begin(view, torch.tensor([q]), torch.tensor([0])) for view, q in ((0, [other, like]), (1, [like, like, other]))
    ]
    read_together(searches)
    assert [search.result()[0].tolist() for search in searches] == [[[63, 2]], [[2, 2, 63]]]
    assert bank.fallbacks == 3


@pytest.mark.parametrize("together", [False, True])
def test_a_search_can_be_asked_for_later(banks, together):
    queries, numbers = random(5, 4, 8, seed=3), torch.arange(5)
    pending = [bank.begin(view, queries, numbers) for bank in banks for view in (0, 1)]
    if together:
        read_together(pending)
    for search, (bank, view) in zip(pending, [(bank, view) for bank in banks for view in (0, 1)], strict=True):
        now = bank.nearest(view, queries, numbers)
        assert all(torch.equal(a, b) for a, b in zip(search.result(), now, strict=True))


@pytest.mark.parametrize("room", [1, 2000, 20000])
def test_tiles_change_nothing(banks, monkeypatch, room):
    queries, numbers = random(12, 4, 8, seed=3), torch.arange(12)
    expected = banks[0].nearest(0, queries, numbers)
    monkeypatch.setattr(bank_search, "TILE_BYTES", room)
    assert all(torch.equal(a, b) for a, b in zip(banks[1].nearest(0, queries, numbers), expected, strict=True))


def uneven(images=30, places=20):
    """Two banks, one pass and two, whose images hold from no object to all, and every object three times in different images."""
    generator = torch.Generator().manual_seed(8)
    kinds = random(2, images * places // 3, 8, seed=4)
    objects = kinds[:, torch.arange(images * places) % kinds.shape[1]][:, torch.randperm(images * places, generator=generator)]
    valid = torch.rand(images, places, generator=generator) < torch.linspace(-0.2, 1.2, images)[:, None]
    banks = Bank(images, places, 8, PATCHES), Bank(images, places, 8, PATCHES)
    for bank, two in zip(banks, (False, True), strict=True):
        bank.two_pass = two
        fill(bank, objects.unflatten(1, (images, places)), valid[torch.randperm(images, generator=generator.manual_seed(3))])
    return banks


@pytest.mark.parametrize("images", [1, 4, 7, 30], ids="tiles of {}".format)
def test_images_may_hold_any_number_of_objects(monkeypatch, images):
    one, two = uneven()
    queries = one.objects[0] + 0.01 * random(30, 20, 8, seed=6)
    monkeypatch.setattr(bank_search, "TILE_BYTES", images * 2 * 20 * queries.shape[0] * 20)
    for numbers in (torch.arange(30), torch.arange(100, 130)):
        found = [bank.nearest(0, queries, numbers) for bank in (one, two)]
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert two.fallbacks == 0


def test_most_empty_places_are_not_searched(monkeypatch):
    _, bank = uneven()
    rows, product = [], bank_search.bounds.product
    monkeypatch.setattr(bank_search, "TILE_BYTES", 1)  # tiles of one image
    monkeypatch.setattr(bank_search.bounds, "product", lambda q, keys: rows.append(len(keys)) or product(q, keys))
    bank.nearest(1, random(1, 4, 8), torch.tensor([99]))
    held = sorted(bank.valid.sum(1).tolist(), reverse=True)
    assert rows == [min(20, 8 * max(1, math.ceil(objects / 8))) for objects in held]
    assert sum(rows) < 0.85 * bank.valid.numel()
