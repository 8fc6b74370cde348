"""Several clusterings in the same passes, and what a GPU does in place of a CPU: each ends as it does alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from point_sets import as_on_a_gpu, blobs, normal, same_partition, seeded

from densebench.numerics import kmeans as clustering
from densebench.numerics import lloyd
from densebench.numerics.kmeans import grouped, kmeans, kmeans_each, labels, minibatch
from densebench.numerics.lloyd import Clusters, Members, Points, Start, assign
from densebench.numerics.segment_sums import sums_by_index


@pytest.fixture
def queued(monkeypatch):
    as_on_a_gpu(monkeypatch)


def alike(one: Clusters, other: Clusters):
    assert one.iterations == other.iterations
    assert one.inertia == pytest.approx(other.inertia, rel=1e-12)
    assert torch.equal(one.centroids, other.centroids)  # clusters below the length of a piece: the same order of sums


def starts(several, restarts, clusters, seed=0):
    for number, points in enumerate(several):
        centre = points.mean(0)
        drawn = torch.stack([torch.randperm(len(points), generator=seeded(seed + number))[:clusters] for _ in range(restarts)])
        yield Start(points - centre, points[drawn] - centre, centre)


@pytest.mark.parametrize("given", [{}, {"init": "k-means++"}, {"spherical": True}, {"per_cluster": None}, {"tolerance": 0.0}])
def test_a_gpus_way_gives_the_same_clusters(request, given):
    points = normal(800, 6) * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 1.0]) + 0.3
    problems = [(points, k, seed) for k in (5, 9) for seed in range(3)]
    expected = [kmeans(*problem[:2], seed=problem[2], restarts=4, **given) for problem in problems]
    request.getfixturevalue("queued")
    for one, other in zip(kmeans_each(problems, restarts=4, **given), expected, strict=True):
        alike(one, other)


@pytest.mark.parametrize("shared", [True, False], ids=["the same points", "points that differ"])
@pytest.mark.parametrize("way", ["cpu", "gpu"])
def test_clusterings_fitted_together_are_those_fitted_alone(request, way, shared):
    if way == "gpu":
        request.getfixturevalue("queued")
    several = [normal(300, 4)] * 3 if shared else [normal(300, 4, seed=seed) + seed for seed in range(3)]
    each = list(starts(several, 3, 6))
    options = {"iterations": 60, "tolerance": 1e-3, "spherical": False}
    together = lloyd.lloyd(each, **options)
    assert len({fit.iterations for fit in together}) > 1  # they leave the passes at different times
    for start, fit in zip(each, together, strict=True):
        alike(fit, lloyd.lloyd([start], **options)[0])


@pytest.mark.usefixtures("queued")
def test_the_order_of_restarts_and_clusterings_does_not_matter():
    each = list(starts([blobs(400, 3, 12, 2.0, seed=seed)[0] for seed in range(3)], 4, 7))
    turned = [Start(start.points, start.centroids.flip(0), start.centre) for start in reversed(each)]
    options = {"iterations": 100, "tolerance": 1e-4, "spherical": False}
    for one, other in zip(lloyd.lloyd(each, **options), reversed(lloyd.lloyd(turned, **options)), strict=True):
        alike(one, other)


@pytest.mark.parametrize("name", ["copies of points", "no point at all", "two lines"])
def test_clusters_that_become_empty_are_filled_alike(request, name):
    """Whole numbers and halves: distances are exact, so that equal ones are equal on both ways."""
    points = torch.randint(-3, 4, (600, 2), generator=seeded()).float()
    if name == "two lines":
        points[:, 1] = 0
    if name == "no point at all":
        points[:] = 1.5
    before = [kmeans(points, 60, seed=seed, restarts=3, per_cluster=None) for seed in range(3)]
    request.getfixturevalue("queued")
    after = list(kmeans_each([(points, 60, seed) for seed in range(3)], restarts=3, per_cluster=None))
    for one, other in zip(after, before, strict=True):
        alike(one, other)


@pytest.mark.usefixtures("queued")
def test_an_empty_cluster_goes_where_a_hand_would_put_it():
    """Points 0, 1 | 10, 14, 15 and centroids 0.5, 13, 99: the third moves to 10, the farthest of the worse cluster."""
    points = torch.tensor([[0.0], [1.0], [10.0], [14.0], [15.0]])
    start = Start(points, torch.tensor([[[0.5], [13.0], [99.0]]]), torch.zeros(1))
    fit = lloyd.lloyd([start], iterations=10, tolerance=0.0, spherical=False)[0]
    assert fit.centroids[:, 0].tolist() == [0.5, 14.5, 10.0]
    assert (fit.inertia, fit.iterations) == (1.0, 3)  # the third finds that nothing moves


def test_rounds_by_hand():
    """Points 0, 2, 10 from centroids 0 and 2: inertia 64, then of 0 and 6: 0 + 4 + 16 ... until {0, 2} and {10}: 2."""
    points = torch.tensor([[0.0], [2.0], [10.0]])
    start = Start(points, torch.tensor([[[0.0], [2.0]]]), torch.zeros(1))
    values = [lloyd.lloyd([start], iterations=i, tolerance=0.0, spherical=False)[0] for i in range(5)]
    assert [fit.inertia for fit in values] == [64.0, 20.0, 2.0, 2.0, 2.0]
    assert [fit.iterations for fit in values] == [0, 1, 2, 3, 3]
    assert values[-1].centroids[:, 0].tolist() == [1.0, 10.0]


@pytest.mark.usefixtures("queued")
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("gathered", [1, 1000, 2**29])
def test_sums_of_several_clusterings_are_those_of_a_loop(monkeypatch, shared, gathered):
    monkeypatch.setattr(lloyd, "GATHERED", gathered)
    each = [normal(90, 3)] * 3 if shared else [normal(90, 3, seed=seed) for seed in range(3)]
    owner, nearest = [0, 0, 2, 2, 2], torch.randint(0, 7, (5, 90), generator=seeded())  # clustering 1 is done
    nearest[nearest == 4] = 5
    members = Members(Points(each), owner, nearest, 7)
    assert torch.equal(members.means()[1].value(), torch.arange(7).eq(4).expand(5, 7))
    for row, number in enumerate(owner):
        assert members.counts[row].tolist() == torch.bincount(nearest[row], minlength=7).tolist()
        assert torch.equal(members.sums()[row], sums_by_index(each[number], nearest[row], 7))


@pytest.mark.parametrize("block", [1, 50, 2**24])
def test_a_gpus_blocks_change_no_assignment(request, monkeypatch, block):
    points, centroids = normal(257, 5), normal(3, 9, 5, seed=1)
    nearest, gain = assign(points, centroids)
    request.getfixturevalue("queued")
    monkeypatch.setattr(lloyd, "GPU_BLOCK", block)
    again, gain_again = assign(points, centroids)
    assert torch.equal(nearest, again)
    torch.testing.assert_close(gain, gain_again, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("queued")
def test_neighbours_of_equal_size_are_fitted_together_within_the_room(monkeypatch):
    small, large = normal(50, 3), normal(90, 3)
    problems = [(small, 4, 0), (small, 4, 1), (small, 5, 0), (large, 5, 0), (large, 5, 1), (large, 4, 0)]
    groups = [len(group) for group in grouped(problems, None, 2)]
    assert groups == [2, 1, 2, 1]
    assert [len(group) for group in grouped(problems, 5, 2)] == [2, 3, 1]  # of both sets 25 points are used
    monkeypatch.setattr(clustering, "memory_budget", lambda _: 0)
    assert [len(group) for group in grouped(problems, None, 2)] == [1] * 6


def test_on_a_cpu_a_problem_is_taken_when_the_one_before_is_done():
    taken = itertools.count()
    problems = ((normal(40, 2, seed=next(taken)), 3, seed) for seed in range(5))
    fits = kmeans_each(problems)
    next(fits), next(fits)
    assert next(taken) == 2


@pytest.mark.parametrize("passes", [1, 2, 30])
def test_mini_batches_the_way_of_a_gpu(request, passes):
    points = blobs(3000, 5, 10, 3.0)[0] + 1
    given = {"restarts": 3, "passes": passes, "batch": 200, "per_cluster": None, "init": "k-means++"}
    before = minibatch(points, 10, **given)
    request.getfixturevalue("queued")
    alike(minibatch(points, 10, **given), before)


def test_large_clusters_are_as_good_the_way_of_a_gpu(request):
    """Beyond the length of a piece sums round differently; the clusters of points far apart stay the same."""
    points, truth = blobs(12_000, 4, 4, 30.0)
    before = kmeans(points, 4, restarts=6, per_cluster=None)
    request.getfixturevalue("queued")
    after = kmeans(points, 4, restarts=6, per_cluster=None)
    assert torch.equal(labels(points, after), labels(points, before))
    torch.testing.assert_close(after.centroids, before.centroids, rtol=1e-5, atol=1e-5)
    assert after.inertia == pytest.approx(before.inertia, rel=1e-4) and after.iterations == before.iterations
    assert same_partition(labels(points, after), truth)


@pytest.mark.usefixtures("queued")
def test_clusters_are_refilled_in_their_own_clustering_when_others_end():
    """Hardly more points than clusters that differ: in every iteration some are empty, and in some another clustering ends."""
    points = torch.randint(-3, 4, (100, 2), generator=seeded()).float()
    each = [Start(points, 2 * normal(1, 45, 2, seed=seed), torch.zeros(2)) for seed in range(6)]
    options = {"iterations": 60, "tolerance": 0.05, "spherical": False}
    for start, fit in zip(each, lloyd.lloyd(each, **options), strict=True):
        alike(fit, lloyd.lloyd([start], **options)[0])
