"""Label propagation: a loop over queries and keys, DINO's dense form in float64, cases by hand, invariances.

Jabri et al., NeurIPS 2020; Caron et al. (DINO), ICCV 2021; Simeoni et al. (DINOv3), 2025.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from propagation_by_loops import dino_stretch, naive

from densebench.numerics import propagation
from densebench.numerics.propagation import Window, at_least, gathered, greatest, propagate, stretched, visible


def drawn(seed, b=1, t=3, h=5, w=7, d=6, c=3):
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(b, t + 1, h, w, d, generator=generator), dim=-1)
    labels = torch.rand(b, t, h, w, c, generator=generator)
    return features[:, 0], features[:, 1:], labels / labels.sum(-1, keepdim=True)


def dense(queries, keys, labels, radius, k, temperature):
    """DINO's way: all tokens by all tokens, zero outside the window, thresholded at the k-th value, normalised over keys."""
    (h, w, d), t = queries.shape, len(keys)
    near = [
        [abs(i - y) <= radius and abs(j - x) <= radius for i in range(h) for j in range(w)] for y in range(h) for x in range(w)
    ]
    affinity = torch.exp(queries.reshape(1, h * w, d) @ keys.reshape(t, h * w, d).transpose(1, 2) / temperature)
    affinity = (affinity * torch.tensor(near)).transpose(1, 2).reshape(t * h * w, h * w)
    affinity[affinity < affinity.topk(k, dim=0).values.amin(0)] = 0
    affinity = affinity / affinity.sum(0, keepdim=True)
    return (labels.reshape(t * h * w, -1).T @ affinity).T.reshape(h, w, -1)


WINDOWS = [
    Window(2, "square", 5, 0.1),
    Window(2, "circle", 5, 0.2),
    Window(None, "square", 4, 0.1),
    Window(1, "square", 1, 0.1),
    Window(3, "circle", 40, 0.5),
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("t", "h", "w"), [(3, 5, 7), (1, 9, 4), (2, 11, 19)])
def test_against_the_loop(window, t, h, w):
    queries, keys, labels = drawn(h, 2, t, h, w)
    found = propagate(queries, keys, labels, window)
    for one in range(2):
        np.testing.assert_allclose(found[one], naive(queries[one], keys[one], labels[one], window), atol=2e-5)


def test_against_dino_s_dense_form_also_where_the_window_has_fewer_than_k_keys():
    for radius, k, t in ((2, 5, 3), (12, 5, 4), (1, 9, 2), (1, 20, 1)):
        queries, keys, labels = (part.double() for part in drawn(radius + k, 1, t, 10, 18))
        found = propagate(queries, keys, labels, Window(radius, "square", k, 0.1))[0]
        torch.testing.assert_close(found, dense(queries[0], keys[0], labels[0], radius, k, 0.1))


def test_the_defaults_are_dino_s():
    assert Window() == (12, "square", 5, 0.1)


def test_a_pattern_that_moves_takes_its_labels_along():
    generator = torch.Generator().manual_seed(0)
    first = F.normalize(torch.randn(1, 8, 12, 32, generator=generator), dim=-1)
    labels = F.one_hot(torch.randint(0, 4, (1, 8, 12), generator=generator), 4).float()
    second = first.roll((1, -2), (1, 2))
    found = propagate(second, first[:, None], labels[:, None], Window(2, "square", 1))
    expected = labels.roll((1, -2), (1, 2))
    torch.testing.assert_close(found[:, 1:, :-2], expected[:, 1:, :-2])
    assert not torch.equal(found, expected)  # what came in over the edge has no origin within the window
    short = propagate(second, first[:, None], labels[:, None], Window(1, "square", 1))
    assert (short[:, 1:, :-2] != expected[:, 1:, :-2]).any()


def test_ties_with_the_k_th_all_count():
    affinity = torch.tensor([[[0.0, 1.0, 0.5, 0.5, 0.5, -1.0]]])
    labels = torch.eye(6)[None]
    found = gathered(affinity, labels, 2, 0.5)[0, 0]
    weights = torch.tensor([0.0, math.e**2, math.e, math.e, math.e, 0.0])
    torch.testing.assert_close(found, weights / weights.sum())
    untied = gathered(affinity, labels, 4, 0.5)[0, 0]
    torch.testing.assert_close(untied, found)
    hidden = torch.tensor([[[0.5, -torch.inf, -torch.inf, 0.25]]])
    found = gathered(hidden, torch.eye(4)[None], 3, 0.25)[0, 0]
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0]).softmax(0)[[0, 0, 0, 1]] * torch.tensor([1.0, 0, 0, 1]))


def test_a_still_black_video_keeps_its_labels_on_average():
    queries, keys = torch.zeros(1, 4, 4, 3), torch.zeros(1, 2, 4, 4, 3)
    labels = torch.rand(1, 2, 4, 4, 2)
    found = propagate(queries, keys, labels, Window(None, "square", 5))
    torch.testing.assert_close(found, labels.mean((1, 2, 3))[:, None, None].expand(1, 4, 4, 2))


def test_batch_mates_and_blocks_change_nothing():
    queries, keys, labels = drawn(3, 3, 4, 11, 21, c=2)
    window = Window(3, "circle", 5, 0.1)
    whole = propagate(queries, keys, labels, window)
    for at_once in (1, 5000, 10**9):
        torch.testing.assert_close(propagate(queries, keys, labels, window, at_once), whole)
    alone = torch.cat([propagate(q[None], k[None], v[None], window) for q, k, v in zip(queries, keys, labels, strict=True)])
    torch.testing.assert_close(alone, whole)


def test_tiles_change_nothing(monkeypatch):
    queries, keys, labels = drawn(4, 1, 2, 13, 17)
    whole = propagate(queries, keys, labels, Window(2))
    for tile in ((1, 1), (3, 5), (50, 50)):
        monkeypatch.setattr(propagation, "TILE", tile)
        torch.testing.assert_close(propagate(queries, keys, labels, Window(2)), whole)


def test_frames_are_alike_and_labels_are_linear():
    queries, keys, labels = drawn(5, 1, 4)
    window = Window(2)
    found = propagate(queries, keys, labels, window)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(propagate(queries, keys[:, order], labels[:, order], window), found)
    torch.testing.assert_close(propagate(queries, keys, 3 * labels + 1, window), 3 * found + 1)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 5, 7))
    turned = propagate(*(part.flip(-2) for part in (queries, keys, labels)), window)
    torch.testing.assert_close(turned.flip(-2), found)


def test_no_matrix_of_all_by_all_is_held(monkeypatch):
    held = []
    kept = gathered

    def watched(affinity, *rest):
        held.append(affinity.numel())
        return kept(affinity, *rest)

    monkeypatch.setattr(propagation, "gathered", watched)
    queries, keys, labels = drawn(6, 1, 8, 40, 60, d=4, c=2)
    propagate(queries, keys, labels, Window(3))
    assert max(held) <= 8 * 16 * 8 * (8 + 6) * (16 + 6) < 8 * (40 * 60) ** 2 / 100


@pytest.mark.parametrize("n", [3, 32, 200, 385, 1000, 1031])
@pytest.mark.parametrize("k", [1, 4, 6])
def test_greatest_is_topk(n, k):
    values = torch.randn(2, 5, n, generator=torch.Generator().manual_seed(n))
    values[0, 0, : n // 2] = -torch.inf
    values[1, 2, -1] = 9.0
    found, places = greatest(values, k)
    torch.testing.assert_close(found, values.topk(min(k, n)).values, rtol=0, atol=0)
    torch.testing.assert_close(values.gather(-1, places), found, rtol=0, atol=0)
    assert all(len(set(row)) == len(row) for row in places.flatten(0, 1).tolist())


def test_greatest_finds_all_in_one_group():
    values = torch.zeros(1, 1024)
    values[0, 64:70] = torch.arange(1.0, 7.0)
    assert greatest(values, 6)[0].tolist() == [[6, 5, 4, 3, 2, 1]]


def test_windows_by_hand():
    inside = visible(slice(10, 11), slice(20, 21), slice(4, 17), slice(14, 27), Window(5, "circle")).view(13, 13)
    assert inside[6 + 3, 6 + 4] and inside[6 - 5, 6] and not inside[6 + 4, 6 + 4] and not inside[6, 6 + 6]
    inside = visible(slice(10, 11), slice(20, 21), slice(4, 17), slice(14, 27), Window(5)).view(13, 13)
    assert inside[1:12, 1:12].all() and inside.sum() == 121
    assert visible(slice(0, 2), slice(0, 3), slice(0, 2), slice(0, 3), Window(None)).all()


def test_stretching_by_hand_and_as_dino():
    channel = torch.tensor([[0.2, 0.6], [0.4, 0.2]])
    nothing = torch.zeros(2, 2)
    found = stretched(torch.stack([channel, nothing]))
    torch.testing.assert_close(found, torch.stack([torch.tensor([[0, 1.0], [0.5, 0]]), nothing]))
    for seed in range(5):
        channels = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(stretched(channels), dino_stretch(channels))


@pytest.mark.parametrize("filled", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.25, 0.75, 0.0)])
def test_channels_that_are_equal_everywhere_win_as_in_dino(filled):
    channels = torch.tensor(filled)[:, None, None].expand(3, 4, 5)
    expected = dino_stretch(channels).max(0).indices  # 0 / 0 counts as the greatest there
    torch.testing.assert_close(stretched(channels).argmax(0), expected)


def test_one_channel_that_is_equal_everywhere_beats_those_that_vary():
    channels = torch.stack([torch.rand(4, 5), torch.full((4, 5), 0.3)])
    assert stretched(channels).argmax(0).eq(1).all() and dino_stretch(channels).max(0).indices.eq(1).all()


def test_all_keys_of_some_affinity_give_their_labels():
    affinity, labels = torch.tensor([[[0.1, 0.4, 0.4, -torch.inf, 0.7]]]), torch.eye(5)[None]
    found = at_least(torch.tensor([[[0.4]]]), affinity, labels, 0.1)[0, 0]
    weights = [0.0, math.exp(4), math.exp(4), 0.0, math.exp(7)]
    assert found.tolist() == pytest.approx([weight / sum(weights) for weight in weights])


def test_computing_every_query_by_its_kth_affinity_equals_taking_the_nearest():
    affinity = torch.randint(0, 6, (2, 9, 40), generator=torch.Generator().manual_seed(0)) / 10  # many ties
    labels = torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(1))
    least = affinity.topk(5).values[..., 4:]
    torch.testing.assert_close(at_least(least, affinity, labels, 0.1), gathered(affinity, labels, 5, 0.1))
