"""The parts of K-means: samples, assignment, means, first centroids."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from point_sets import distances, inertia_of, normal, seeded
from scipy import stats

from densebench.numerics import lloyd
from densebench.numerics.first_centroids import first_points, plus_plus, sample
from densebench.numerics.kmeans import kmeans
from densebench.numerics.lloyd import assign, means


@pytest.mark.parametrize(("count", "per_cluster"), [(50, None), (50, 10), (50, 11), (7, 256)])
def test_all_points_in_order_where_they_are_few_enough(count, per_cluster):
    assert sample(count, 5, per_cluster, seed=3).tolist() == list(range(count))


def test_a_sample_has_distinct_points_and_is_decided_by_its_seed():
    drawn = sample(1000, 7, 11, seed=3)
    assert len(set(drawn.tolist())) == len(drawn) == 77
    assert drawn.min() >= 0 and drawn.max() < 1000
    assert torch.equal(drawn, sample(1000, 7, 11, seed=3))
    assert set(drawn.tolist()) != set(sample(1000, 7, 11, seed=4).tolist())
    assert len(sample(51, 5, 10, seed=0)) == 50


def test_every_point_is_sampled_equally_often():
    counts = torch.stack([torch.bincount(sample(12, 2, 2, seed), minlength=12) for seed in range(900)]).sum(0)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4  # without replacement: the statistic is smaller yet


def test_a_fit_sees_the_sample_and_no_other_point():
    points = normal(400, 3)
    kept = sample(400, 4, 20, seed=6)
    others = torch.ones(400, dtype=torch.bool)
    others[kept] = False
    moved = torch.where(others[:, None], points + 1000, points)
    fit, other = kmeans(points, 4, seed=6, per_cluster=20), kmeans(moved, 4, seed=6, per_cluster=20)
    assert torch.equal(fit.centroids, other.centroids)
    assert fit.inertia == pytest.approx(inertia_of(points[kept], fit.centroids), rel=1e-5)
    assert fit.inertia == other.inertia


def test_assignment_and_gain_are_those_of_a_loop():
    points, centroids = normal(300, 6) * 2 + 0.5, normal(3, 11, 6, seed=1) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    nearest, gain = assign(points, centroids)
    assert nearest.shape == (3, 300) and gain.shape == (3,)
    for r in range(3):
        apart = distances(points, centroids[r])
        assert torch.equal(nearest[r], apart.argmin(1))
        expected = (points.double().square().sum(1) - apart.min(1).values).sum().item()
        assert gain[r].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("block", [1, 64, 1000])
def test_the_size_of_a_block_changes_nothing(monkeypatch, block):
    points, centroids = normal(257, 5), normal(3, 9, 5, seed=1)
    nearest, gain = assign(points, centroids)
    moved, fit = means(points, nearest, 9), kmeans(points, 6, restarts=2)
    monkeypatch.setattr(lloyd, "BLOCK", block)
    again, gain_again = assign(points, centroids)
    assert torch.equal(nearest, again)
    torch.testing.assert_close(gain, gain_again)
    torch.testing.assert_close(means(points, again, 9), moved)
    torch.testing.assert_close(kmeans(points, 6, restarts=2).centroids, fit.centroids)


def test_means_are_those_of_each_clusters_points():
    points, nearest = normal(60, 4), torch.stack([torch.arange(60) % 5, torch.arange(60) // 12])
    found = means(points, nearest, 5)
    for r, cluster in itertools.product(range(2), range(5)):
        expected = points[nearest[r] == cluster].double().mean(0)
        torch.testing.assert_close(found[r, cluster].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("centre", [5.0, 0.0], ids=["off zero", "mean zero"])
def test_an_empty_cluster_takes_the_point_farthest_from_its_centroid(centre):
    large = torch.tensor([[-3.0, -1.0], [-1.0, -0.5], [1.0, 0.5], [3.5, 1.0]]) + centre
    points = torch.cat([torch.tensor([[90.0, 80.0], [92.0, 82.0]]), large])
    nearest = torch.tensor([[2, 2, 1, 1, 1, 1]])
    found = means(points, nearest, 3)
    torch.testing.assert_close(found[0, 0], large[3])
    torch.testing.assert_close(found[0, 1], large.mean(0))
    torch.testing.assert_close(found[0, 2], torch.tensor([91.0, 81.0]))
    assert torch.bincount(assign(points, found)[0][0], minlength=3).min() > 0


def refilled(points, nearest, clusters):
    """Centroids by loops: each empty cluster takes the farthest point of the worst one, and all of its points that are closer."""
    kept = [[n for n, cluster in enumerate(nearest) if cluster == number] for number in range(clusters)]
    centroids = [points[members].mean(0) if members else None for members in kept]
    apart = [(points[n] - centroids[cluster]).square().sum().item() for n, cluster in enumerate(nearest)]
    for empty in [number for number, members in enumerate(kept) if not members]:
        worst = max(kept, key=lambda members: sum(apart[n] for n in members))
        centroids[empty] = points[max(worst, key=lambda n: apart[n])]
        for n in list(worst):
            closer = (points[n] - centroids[empty]).square().sum().item()
            if closer < apart[n]:
                worst.remove(n)
                kept[empty].append(n)
                apart[n] = closer
    return torch.stack(centroids)


def test_several_empty_clusters_are_filled_one_after_the_other():
    """Up to five of eight clusters are empty, so clusters that were just divided are divided again."""
    points = normal(4, 20, 2) * torch.tensor([1.0, 3.0, 5.0, 0.2])[:, None, None]
    for some, used in itertools.product(points.double(), (3, 4, 6)):
        nearest = torch.arange(20) % used + 8 - used
        expected = refilled(some, nearest.tolist(), 8)
        torch.testing.assert_close(means(some.float(), nearest[None], 8)[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_a_restart_without_an_empty_cluster_is_left_alone():
    points = normal(40, 3) + 4
    whole, split = torch.arange(40) % 4, torch.arange(40) % 3
    found = means(points, torch.stack([split, whole]), 4)
    assert torch.equal(found[1], means(points, whole[None], 4)[0])
    assert len(torch.unique(found[0], dim=0)) == 4


def test_first_points_are_distinct_points_drawn_evenly():
    points = torch.arange(10.0)[:, None] * torch.tensor([[1.0, -2.0]])
    drawn = first_points(points, 4, 2000, seeded(5))
    assert drawn.shape == (2000, 4, 2)
    assert torch.equal(drawn[..., 1], -2 * drawn[..., 0])
    index = drawn[..., 0].long()
    assert (index.sort(1).values.diff(dim=1) > 0).all()
    for place in range(4):
        assert stats.chisquare(torch.bincount(index[:, place], minlength=10).numpy()).pvalue > 1e-4
    assert torch.equal(first_points(points, 4, 2000, seeded(5)), drawn)
    assert torch.equal(first_points(points, 10, 1, seeded(5))[0].sort(0, descending=False).values[:, 0], points[:, 0])


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_plus_plus_draws_in_proportion_to_the_squared_distance(shift):
    where = torch.tensor([0.0, 1.0, 3.0, 7.0]) * 0.29 + shift
    draws = 6000
    found = plus_plus(torch.stack([where, 2 - where], 1), 3, draws, seeded(1))
    assert found.shape == (draws, 3, 2)
    assert torch.equal(found[..., 1], 2 - found[..., 0])
    index = (found[..., 0][..., None] == where).long().argmax(-1)
    orders = list(itertools.permutations(range(4), 3))
    expected = []
    for a, b, c in orders:
        second = (where - where[a]).square()
        third = torch.minimum(second, (where - where[b]).square())
        expected.append(0.25 * (second[b] / second.sum() * third[c] / third.sum()).item() * draws)
    seen = [(index == torch.tensor(order)).all(1).sum().item() for order in orders]
    assert sum(seen) == draws  # no point twice
    assert stats.chisquare(seen, np.array(expected) * draws / sum(expected)).pvalue > 1e-4


def test_plus_plus_draws_no_point_twice_where_a_random_number_is_0(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, **_: torch.zeros(shape, dtype=dtype))
    found = plus_plus(torch.arange(6.0)[:, None], 4, 30, seeded())
    assert all(len(set(row)) == 4 for row in found[..., 0].tolist())


def test_plus_plus_over_many_seeds_and_single_restarts():
    points = torch.tensor([[0.0], [1.0], [3.0]])
    pairs = [plus_plus(points, 2, 1, seeded(seed))[0, :, 0].tolist() for seed in range(900)]
    orders = list(itertools.permutations([0.0, 1.0, 3.0], 2))
    totals = {0.0: 10, 1.0: 5, 3.0: 13}
    expected = [300 * (a - b) ** 2 / totals[a] for a, b in orders]
    assert stats.chisquare([pairs.count(list(order)) for order in orders], expected).pvalue > 1e-4
