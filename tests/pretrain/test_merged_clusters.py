"""The clusters that CrOC's merging gives: objects, pruning, weights, symmetries and the choice of their number."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_reference import CODE, PAPER, VARIANTS, check, naive, problem
from torch._subclasses.fake_tensor import FakeTensorMode

from densebench.pretrain.croc.merging import Rules, merge_clusters


def test_two_objects_of_one_place_each():
    """Two kinds of patches, side by side, in both views: two clusters, and each patch weighs as much as its neighbour."""
    tokens = torch.eye(2).repeat_interleave(4, 0).repeat(2, 1)[None]  # four of one kind, four of the other, twice
    x = torch.tensor([0.0, 1.0, 0.0, 1.0, 100.0, 101.0, 100.0, 101.0]).repeat(2)
    y = torch.tensor([0.0, 0.0, 1.0, 1.0] * 4)
    noise = torch.rand(1, 16, generator=torch.Generator().manual_seed(0))
    found = merge_clusters(tokens, torch.stack([x, y], 1)[None], torch.zeros(1, 16), noise, Rules(start=4, most=2))
    assert found.count.tolist() == [2]
    assert found.valid.tolist() == [[True, True]]
    for view in (0, 1):
        first = found.weights[view][0, 0].argmax()
        for k, members in ((first, slice(0, 4)), (1 - first, slice(4, 8))):
            weights = found.weights[view][0, :, k]
            assert weights[members].sum().item() == pytest.approx(1, abs=1e-3)
            assert weights.sum() == weights[members].sum()
            assert weights[members].min() > 0.2


def test_what_only_one_view_shows_is_pruned():
    """Half of view 1 is of a kind that view 2 lacks."""
    tokens = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4 + [[1.0, 0.0]] * 8)[None]
    noise = torch.full((1, 16), 0.5)
    noise[0, [0, 4]] = 0.001  # the first to be drawn
    found = merge_clusters(
        tokens, torch.rand(1, 16, 2), torch.zeros(1, 16), noise, Rules(start=2, most=2, lambda_pos=0.0, assign="row")
    )
    assert found.count.tolist() == [2]
    assert found.valid.sum() == 1
    kept = found.valid[0].int().argmax()
    assert (found.weights[0][0, :4, kept] > 0.99).all()
    assert (found.weights[1][0, :, kept] > 0.99).all()
    assert all((weights[0, :, 1 - kept] == 0).all() for weights in found.weights)


def test_weights_of_the_code_belong_to_one_cluster_and_sum_to_at_most_one():
    found = merge_clusters(*problem(64, 8, seed=5), CODE)
    for weights in found.weights:
        assert ((weights > 0).sum(2) <= 1).all()
        assert (weights.sum(1) <= 1 + 1e-5).all()
        assert ((weights.sum(1) > 0) == found.valid).all()
    assert (found.valid.sum(1) < found.count).any()  # some were pruned


def test_weights_of_the_paper_are_shared_among_clusters():
    found = merge_clusters(*problem(8, 24, seed=5, shares=True), PAPER)
    full = found.valid.sum(1) == found.count
    assert full.any()
    for weights in found.weights:
        torch.testing.assert_close(weights[full].sum(2), torch.ones_like(weights[full].sum(2)))
        assert ((weights.sum(1) > 0) == found.valid).all()


@pytest.mark.parametrize("rules", [CODE, PAPER], ids=["code", "paper"])
def test_swapped_views_swap_the_weights(rules):
    inputs = problem(4, 20, seed=6, shares=rules.scores_are_shares)
    found = merge_clusters(*inputs, rules)
    swapped = merge_clusters(*(x.roll(10, 1) for x in inputs), rules)
    assert torch.equal(swapped.valid, found.valid)
    torch.testing.assert_close(swapped.weights[0], found.weights[1])
    torch.testing.assert_close(swapped.weights[1], found.weights[0])


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(0, 999), st.randoms(use_true_random=False))
def test_patches_of_a_view_may_come_in_any_order(seed, random):
    inputs = problem(2, 16, seed=seed)
    first, second = list(range(8)), list(range(8, 16))
    random.shuffle(first)
    random.shuffle(second)
    found = merge_clusters(*inputs, CODE)
    moved = merge_clusters(*(x[:, first + second] for x in inputs), CODE)
    assert torch.equal(moved.count, found.count)
    torch.testing.assert_close(moved.weights[0], found.weights[0][:, first])
    torch.testing.assert_close(moved.weights[1], found.weights[1][:, [n - 8 for n in second]])


@pytest.mark.parametrize("rules", [CODE, PAPER], ids=["code", "paper"])
def test_a_group_of_one_does_not_see_its_batch(rules):
    rules = dataclasses.replace(rules, group=1)
    inputs = problem(4, 20, seed=7, shares=rules.scores_are_shares)
    together = merge_clusters(*inputs, rules)
    for i in range(4):
        alone = merge_clusters(*(x[i : i + 1] for x in inputs), rules)
        assert alone.count[0] == together.count[i]
        for view in (0, 1):
            torch.testing.assert_close(alone.weights[view][0], together.weights[view][i])


def test_lengths_of_tokens_and_units_of_positions_do_not_count():
    tokens, positions, scores, noise = problem(3, 20, seed=8)
    lengths = 0.2 + torch.rand(3, 20, 1, generator=torch.Generator().manual_seed(0))
    found = merge_clusters(tokens * lengths, 7 * positions - 100, scores, noise, CODE)
    for a, b in zip(found.weights, merge_clusters(tokens, positions, scores, noise, CODE).weights, strict=True):
        torch.testing.assert_close(a, b)


def test_two_centroids_need_no_merge():
    rules = dataclasses.replace(CODE, start=2, most=2)
    inputs = problem(3, 12, seed=9)
    found = merge_clusters(*inputs, rules)
    assert found.count.tolist() == [2, 2, 2]
    check(found, naive(*inputs, rules), 2)


def test_the_larger_number_wins_a_tie():
    """Patches that are all the same cost nothing, however many clusters they make."""
    tokens = torch.tensor([1.0, 0.0]).expand(2, 12, 2)
    positions, noise = torch.rand(2, 12, 2), torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
    found = merge_clusters(tokens, positions, torch.zeros(2, 12), noise, Rules(start=5, most=4, lambda_pos=0.0))
    assert found.count.tolist() == [4, 4]


def test_most_bounds_the_number_but_not_the_start():
    inputs = problem(16, 24, seed=10)
    for most in (2, 3, 5):
        found = merge_clusters(*inputs, dataclasses.replace(CODE, most=most))
        assert found.weights[0].shape == (16, 12, most)
        assert found.count.min() >= 2
        assert found.count.max() <= most


@pytest.mark.parametrize("rules", VARIANTS.values(), ids=VARIANTS.keys())
def test_nothing_is_read_back_from_the_device(rules):
    with FakeTensorMode():
        found = merge_clusters(torch.randn(3, 16, 4), torch.rand(3, 16, 2), torch.rand(3, 16), torch.rand(3, 16), rules)
        assert found.weights[0].shape == found.weights[1].shape == (3, 8, rules.most)
        assert found.valid.shape == (3, rules.most)
