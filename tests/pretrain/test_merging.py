"""The merging of CrOC: against loops, every rule, marginals and merges by hand, and sampling."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_reference import CODE, PAPER, VARIANTS, check, naive, problem
from tiers import late

from densebench.pretrain.croc import merging
from densebench.pretrain.croc.merging import Rules, merge_clusters


@pytest.mark.parametrize("rules", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("group", late([0, 1, 2], 0, 2))
def test_equals_the_naive_restatement(rules, group):
    rules = dataclasses.replace(rules, group=group)
    for seed in range(2):
        inputs = problem(5, 20, seed=seed, shares=rules.scores_are_shares)
        check(merge_clusters(*inputs, rules), naive(*inputs, rules), rules.most)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(1, 3), st.integers(3, 8), st.integers(2, 6), st.integers(2, 6), st.booleans(), st.integers(0, 999))
def test_any_size_equals_the_naive_restatement(p, half, start, most, paper, seed):
    rules = dataclasses.replace(PAPER if paper else CODE, start=max(start, most), most=most)
    inputs = problem(p, 2 * half, seed=seed, shares=paper)
    check(merge_clusters(*inputs, rules), naive(*inputs, rules), most)


@pytest.mark.parametrize(
    ("name", "value"),
    [("merge", "cosine"), ("follow", "tokens"), ("quality", "semantic"), ("assign", "row"), ("uniform", True), ("group", 1),
     ("lambda_pos", 0.0), ("sharpness", 5.0), ("iterations", 1), ("score_temp", 0.3)],
)  # fmt: skip
def test_every_rule_matters(name, value):
    inputs = problem(24, 24, seed=4)
    changed = merge_clusters(*inputs, dataclasses.replace(CODE, **{name: value}))
    default = merge_clusters(*inputs, CODE)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(changed.weights, default.weights, strict=True))


def test_marginals_by_hand():
    scores = torch.tensor([[0.9, 0.1, -0.3]])
    rows = merging.patch_marginal(scores, Rules())
    assert rows[0].tolist() == pytest.approx([0.450627, 0.302064, 0.247309], abs=1e-6)
    sampled = torch.eye(3)[None][:, :, [0, 2]]
    assert merging.centroid_marginal(sampled, rows, Rules())[0].tolist() == pytest.approx([0.645656, 0.354344], abs=1e-6)
    assert merging.patch_marginal(scores, Rules(uniform=True))[0].tolist() == pytest.approx([1 / 3] * 3)


def test_marginals_of_the_paper_by_hand():
    rows = merging.patch_marginal(torch.tensor([[0.6, 0.1, 0.3]]), PAPER)  # attention to the patches, perhaps not all of it
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.1, 0.3]]))
    torch.testing.assert_close(merging.patch_marginal(torch.tensor([[0.3, 0.05, 0.15]]), PAPER), rows)
    averaged = torch.tensor([[[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]])
    expected = torch.tensor([[math.exp(0.35), math.exp(0.3)]]) / (math.exp(0.35) + math.exp(0.3))
    torch.testing.assert_close(merging.centroid_marginal(averaged, rows, PAPER), expected)


def test_the_marginal_of_a_merged_cluster_is_its_mean_weight():
    rows = torch.tensor([[0.5, 0.3, 0.2]])
    plan = torch.tensor([[[0.2, 0.0], [0.2, 0.0], [0.0, 0.1]]])  # means .4 and .2, whatever the masses
    assert merging.centroid_marginal(plan, rows, Rules())[0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_merge_by_hand():
    centroids = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]])
    pair = merging.closest_pair(centroids, "dot")
    assert pair.tolist() == [[0, 2]]
    columns = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    assert merging.merge_pair(columns, pair, 1.0).tolist() == [[[2, 4], [5, 10]]]  # the sum comes last
    assert merging.merge_pair(columns, pair, 0.5).tolist() == [[[2, 2], [5, 5]]]


def test_merging_keeps_mass_and_the_order_of_the_others():
    columns = torch.rand(2, 7, 5, generator=torch.Generator().manual_seed(0))
    merged = merging.merge_pair(columns, torch.tensor([[1, 3], [0, 4]]), 1.0)
    torch.testing.assert_close(merged.sum(2), columns.sum(2))
    assert torch.equal(merged[0, :, :3], columns[0][:, [0, 2, 4]])
    assert torch.equal(merged[1, :, :3], columns[1][:, [1, 2, 3]])


def test_closest_by_length_or_by_direction():
    centroids = torch.tensor([[[3.0, 0.0], [2.0, 2.0], [0.1, 0.1], [0.0, 1.0]]])
    assert merging.closest_pair(centroids, "dot").tolist() == [[0, 1]]
    assert merging.closest_pair(centroids, "cosine").tolist() == [[1, 2]]


def test_the_first_pair_wins_a_tie():
    centroids = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    assert merging.closest_pair(centroids, "dot").tolist() == [[0, 2]]
    assert merging.closest_pair(torch.eye(3)[None], "dot").tolist() == [[0, 1]]


def test_a_centroid_is_never_merged_with_itself():
    centroids = torch.tensor([[[0.7, 0.0], [-0.7, 0.0], [0.0, 0.7]], [[0.9, 0.1], [-0.9, 0.1], [0.1, -0.9]]])
    pairs = merging.closest_pair(centroids, "dot")
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert pairs.tolist() == [[0, 2], [0, 2]]


def test_sampling_follows_the_shares_without_replacement():
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    count = 40000
    noise = torch.rand(count, 4, generator=torch.Generator().manual_seed(0))
    drawn = merging.sample(shares.expand(count, 4), noise, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    for i in range(4):
        for j in range(4):
            expected = 0.0 if i == j else shares[i].item() * shares[j].item() / (1 - shares[i].item())
            assert ((drawn[:, 0] == i) & (drawn[:, 1] == j)).float().mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("value", [0.0, 1 - 2**-24])
def test_sampling_survives_extreme_noise(value):
    drawn = merging.sample(torch.full((3, 6), 1 / 6), torch.full((3, 6), value), 4)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
