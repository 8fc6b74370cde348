"""How many classes come before the true one in a weighted vote of neighbours: by hand, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_boxes import naive_place

from densebench.numerics.votes import NO_VOTE, classes_before


def test_votes_by_hand():
    cosine = torch.tensor([[0.9, 0.8, 0.8, 0.1]])
    labels = torch.tensor([[2, 0, 0, 1]])
    # At temperature 0.1: e^9 = 8103 for class 2, twice e^8 = 5962 for class 0, e^1 for class 1.
    where = [classes_before(cosine, labels, torch.tensor([c]), (1, 2, 3, 4), 0.1, 4).flatten().tolist() for c in range(4)]
    assert where == [[NO_VOTE, 1, 1, 1], [NO_VOTE, NO_VOTE, NO_VOTE, 2], [0, 0, 0, 0], [NO_VOTE] * 4]
    # At temperature 1 two are more than one.
    assert classes_before(cosine, labels, torch.tensor([0]), (2, 3), 1.0, 4).flatten().tolist() == [1, 0]


def test_equal_classes_stand_in_their_order():
    cosine, labels = torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([[3, 1, 2]])
    assert [int(classes_before(cosine, labels, torch.tensor([c]), (3,), 0.07, 4)) for c in (1, 2, 3)] == [0, 1, 2]


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("count", [3, 12])
def test_places_are_those_of_plain_loops(temperature, count):
    rng = np.random.default_rng(count)
    cosine = np.sort(rng.integers(-8, 9, (40, 15)) / 8)[:, ::-1].copy()  # eighths, so that ties are many
    labels, truth = rng.integers(0, count, (40, 15)), rng.integers(0, count, 40)
    ks = (1, 4, 9, 15)
    found = classes_before(*(torch.from_numpy(a) for a in (cosine, labels, truth)), ks, temperature, count)
    expected = [
        [naive_place(c, n.tolist(), t, k, temperature, count) for c, n, t in zip(cosine, labels, truth, strict=True)] for k in ks
    ]
    assert (found == torch.tensor(expected)).float().mean() > 0.99  # sums of exp may tie in one order and not in another
    cosine, labels, truth = (torch.from_numpy(array) for array in (cosine, labels, truth))
    alone = [classes_before(cosine[:, :k], labels[:, :k], truth, (k,), temperature, count) for k in ks]
    assert torch.equal(found, torch.cat(alone))


def test_the_order_of_k_is_kept_and_no_temperature_overflows():
    rng = np.random.default_rng(0)
    cosine = torch.from_numpy(np.sort(rng.uniform(-1, 1, (20, 9)))[:, ::-1].copy()).float()
    labels, truth = torch.from_numpy(rng.integers(0, 4, (20, 9))), torch.from_numpy(rng.integers(0, 4, 20))
    forth, back = (classes_before(cosine, labels, truth, ks, 0.07, 4) for ks in ((2, 5, 9), (9, 5, 2)))
    assert torch.equal(forth, back.flip(0))
    cold = classes_before(cosine, labels, truth, (9,), 1e-3, 4)[0]
    assert torch.equal(cold == 0, labels[:, 0] == truth)  # the nearest alone decides
