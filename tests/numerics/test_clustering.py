"""K-means as a whole: a plain Lloyd from the same points, other libraries' inertia, invariances, mini-batches."""

from __future__ import annotations

import itertools

import faiss
import numpy as np
import pytest
import torch
from point_sets import SETS, blobs, distances, inertia_of, lloyd, normal, same_partition, seeded, start_from, stopped, unit
from sklearn.cluster import KMeans
from tiers import late

from densebench.numerics import kmeans as clustering
from densebench.numerics.first_centroids import first_points
from densebench.numerics.kmeans import kmeans, labels
from densebench.numerics.lloyd import Clusters


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("clusters", [3, 8])
def test_a_fit_is_a_plain_lloyd_from_the_same_points(clusters, spherical):
    points = normal(300, 5) * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0]) + 0.3
    states = lloyd(points, first_points(points, clusters, 1, seeded(3))[0], spherical=spherical)
    fit = kmeans(points, clusters, seed=2, tolerance=0.0, iterations=200, spherical=spherical)
    torch.testing.assert_close(fit.centroids.double(), states[-1][1], rtol=1e-4, atol=1e-5)
    assert fit.inertia == pytest.approx(states[-1][0], rel=1e-5)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 9])
def test_a_fit_cut_short_has_the_centroids_that_its_inertia_is_of(iterations, spherical):
    points = normal(300, 5) + 0.2
    states = lloyd(points, first_points(points, 6, 1, seeded(1))[0], 10, spherical)
    fit = kmeans(points, 6, iterations=iterations, tolerance=0.0, spherical=spherical)
    assert fit.iterations == iterations or states[fit.iterations][0] == pytest.approx(states[iterations][0], rel=1e-12)
    assert fit.inertia == pytest.approx(inertia_of(points, fit.centroids), rel=1e-5)
    assert fit.inertia == pytest.approx(states[iterations][0], rel=1e-5)  # an iteration moves, then measures
    torch.testing.assert_close(fit.centroids.double(), states[iterations][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["points", "k-means++"])
def test_inertia_never_rises(init):
    points, _ = blobs(500, 4, 9, 2.0)
    falls = [kmeans(points, 7, iterations=i, tolerance=0.0, init=init, seed=5).inertia for i in range(1, 25)]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(falls))
    assert falls[-1] < 0.9 * falls[0]


@pytest.mark.parametrize("tolerance", [0.2, 0.05, 0.01, 1e-3])
def test_a_fit_ends_once_its_inertia_falls_by_less_than_the_tolerance(tolerance):
    points = normal(400, 5)
    states = lloyd(points, first_points(points, 6, 1, seeded(1))[0])
    fit = kmeans(points, 6, tolerance=tolerance)
    last = stopped(states, tolerance)
    assert fit.iterations == last and fit.inertia == pytest.approx(states[last][0], rel=1e-5)
    torch.testing.assert_close(fit.centroids.double(), states[last][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", late(range(4), 0))
@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_restarts_are_independent_and_the_best_is_kept(seed, tolerance):
    points, _ = blobs(300, 3, 12, 2.0)
    inits = first_points(points, 5, 3, seeded(seed + 1))
    assert len({tuple(init.flatten().tolist()) for init in inits}) == 3
    runs = [lloyd(points, init) for init in inits]
    ends = [run[stopped(run, tolerance) if tolerance else -1] for run in runs]
    best = min(ends, key=lambda state: state[0])
    fit = kmeans(points, 5, seed=seed, restarts=3, tolerance=tolerance)
    assert fit.inertia == pytest.approx(best[0], rel=1e-5)
    torch.testing.assert_close(fit.centroids.double(), best[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["points", "k-means++"])
@pytest.mark.parametrize("spherical", [False, True])
def test_the_inertia_is_that_of_the_returned_centroids(init, spherical):
    points = blobs(700, 6, 10, 3.0)[0] + 1
    fit = kmeans(points, 9, init=init, spherical=spherical, restarts=2, seed=3)
    assert fit.inertia == pytest.approx(inertia_of(points, fit.centroids), rel=1e-5)
    lengths = fit.centroids.norm(dim=1)
    assert bool(torch.allclose(lengths, torch.ones(9), atol=1e-5)) == spherical


@pytest.mark.parametrize("init", ["points", "k-means++"])
def test_blobs_far_apart_are_found(init):
    points, truth = blobs(400, 8, 3, 60.0)
    fit = kmeans(points, 3, init=init, restarts=20, seed=1)
    assert same_partition(labels(points, fit), truth)


def test_plus_plus_decides_where_a_fit_starts():
    points, truth = blobs(600, 8, 12, 60.0)
    good = [same_partition(labels(points, kmeans(points, 12, init="k-means++", seed=s)), truth) for s in range(12)]
    poor = [same_partition(labels(points, kmeans(points, 12, init="points", seed=s)), truth) for s in range(12)]
    assert sum(good) >= 6 > sum(poor) + 2


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("name", SETS)
@pytest.mark.slow
def test_fits_are_as_good_as_those_of_faiss(name, spherical):
    points, ours, theirs = unit(SETS[name]()) if spherical else SETS[name](), [], []
    every = {"min_points_per_centroid": 1, "max_points_per_centroid": len(points)}
    for seed in range(6):
        ours.append(kmeans(points, 12, seed=seed, restarts=5, per_cluster=None, spherical=spherical).centroids)
        fit = faiss.Kmeans(points.shape[1], 12, niter=100, nredo=5, seed=seed + 1, spherical=spherical, **every)
        fit.train(points.numpy())
        theirs.append(torch.from_numpy(fit.centroids))
    ours, theirs = ([inertia_of(points, centroids) for centroids in each] for each in (ours, theirs))
    assert sum(ours) == pytest.approx(sum(theirs), rel=0.01)


@pytest.mark.parametrize("name", late(SETS, *list(SETS)[:2]))
def test_fits_from_plus_plus_are_as_good_as_those_of_scikit_learn(name):
    points = SETS[name]()
    theirs = [KMeans(12, init="k-means++", n_init=5, random_state=seed).fit(points.numpy()).inertia_ for seed in range(4)]
    ours = [kmeans(points, 12, seed=seed, restarts=5, per_cluster=None, init="k-means++").inertia for seed in range(4)]
    assert sum(ours) == pytest.approx(sum(theirs), rel=0.01)


@pytest.mark.parametrize("shift", [1.0, 10.0, 100.0, 1000.0])
def test_shifted_points_are_parted_alike(monkeypatch, shift):
    points = torch.round(normal(300, 4) * 64) / 64  # exact wherever they are shifted to
    states = lloyd(points, points[:5])
    start_from(monkeypatch, points[:5] + shift)
    fit = kmeans(points + shift, 5, tolerance=0.0, iterations=200)
    assert fit.inertia == pytest.approx(states[-1][0], rel=1e-3)
    assert same_partition(labels(points + shift, fit), distances(points, states[-1][1]).argmin(1))


def test_the_order_of_the_points_does_not_matter(monkeypatch):
    points, order = normal(300, 4), torch.randperm(300, generator=seeded(8))
    start_from(monkeypatch, points[:6])
    one, other = kmeans(points, 6), kmeans(points[order], 6)
    assert torch.equal(labels(points, one)[order], labels(points[order], other))
    torch.testing.assert_close(one.centroids, other.centroids)


def test_one_cluster_is_the_mean():
    points = normal(150, 4) + 2
    fit = kmeans(points, 1)
    torch.testing.assert_close(fit.centroids[0], points.mean(0))
    assert fit.inertia == pytest.approx((points - points.mean(0)).square().sum().item(), rel=1e-4)


@pytest.mark.parametrize("init", ["points", "k-means++"])
def test_as_many_clusters_as_points(init):
    points = normal(40, 3)
    fit = kmeans(points, 40, init=init)
    assert sorted(labels(points, fit).tolist()) == list(range(40))
    assert fit.inertia == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("init", ["points", "k-means++"])
def test_more_clusters_than_points_are_refused(init):
    with pytest.raises(ValueError):
        kmeans(normal(4, 2), 5, init=init)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("init", ["points", "k-means++"])
def test_fewer_distinct_points_than_clusters(init, spherical):
    points = torch.tensor([[0.5, 1.0], [3.0, -1.0], [-2.0, 2.0]]).repeat(20, 1)
    fit = kmeans(points, 7, init=init, spherical=spherical, restarts=2)
    assert fit.centroids.shape == (7, 2) and fit.centroids.isfinite().all() and np.isfinite(fit.inertia)
    assert fit.inertia == pytest.approx(inertia_of(points, fit.centroids), rel=1e-5, abs=1e-3)
    assert set(labels(points, fit).tolist()) <= set(range(7))
    if init == "k-means++" and not spherical:
        assert len(set(labels(points, fit)[:3].tolist())) == 3 and fit.inertia == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("spherical", [False, True])
def test_clusters_that_start_empty_are_filled(monkeypatch, spherical):
    points = blobs(300, 6, 8, 3.0)[0] + 1
    away = -torch.ones(3, 6) * torch.tensor([[500.0], [600.0], [700.0]])
    start_from(monkeypatch, torch.cat([away, points[:5]]))
    fit = kmeans(points, 8, spherical=spherical)
    assert (torch.bincount(labels(points, fit), minlength=8) > 0).all()
    assert fit.inertia < 1.2 * kmeans(points, 8, spherical=spherical, init="k-means++", restarts=5).inertia


def test_labels_are_the_nearest_centroids_of_clusterings_of_any_size():
    points = normal(90, 4)
    found = [Clusters(normal(k, 4, seed=k) * k, 0.0, 1) for k in (3, 8, 3)]
    given = [labels(points, one) for one in found]
    for nearest, clusters in zip(given, found, strict=True):
        assert torch.equal(nearest, distances(points, clusters.centroids).argmin(1))


@pytest.mark.parametrize("init", ["points", "k-means++"])
def test_only_the_seed_decides_and_global_generators_are_left_alone(init):
    points = normal(500, 4)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = kmeans(points, 6, seed=4, init=init, per_cluster=50, restarts=2)
    assert torch.equal(torch.get_rng_state(), before) and np.array_equal(np.random.get_state()[1], numpys)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        again = kmeans(points, 6, seed=4, init=init, per_cluster=50, restarts=2)
    assert torch.equal(one.centroids, again.centroids) and (one.inertia, one.iterations) == (again.inertia, again.iterations)
    assert not torch.equal(one.centroids, kmeans(points, 6, seed=5, init=init, per_cluster=50, restarts=2).centroids)


def test_the_points_are_left_as_they_were_and_threads_change_no_label():
    points = normal(900, 4) * 3
    copy, threads = points.clone(), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            fits = kmeans(points, 7, spherical=True), kmeans(points, 7, init="k-means++")
            found.append([labels(points, fit) for fit in fits])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(points, copy)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("spherical", [False, True])
def test_mini_batches_come_close_to_whole_iterations(spherical):
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(12, 6, generator=generator)
    points = centres[torch.randint(12, (3000,), generator=generator)] + 0.6 * torch.randn(3000, 6, generator=generator) + 5
    options = {"seed": 2, "restarts": 20, "init": "k-means++", "per_cluster": None, "spherical": spherical}
    whole = kmeans(points, 12, **options)
    batches = clustering.minibatch(points, 12, batch=256, **options)
    assert batches.inertia == pytest.approx(float((points - batches.centroids[labels(points, batches)]).square().sum()), rel=1e-4)
    assert whole.inertia * 0.999 < batches.inertia < whole.inertia * 1.05
    again = clustering.minibatch(points, 12, batch=256, **options)
    assert torch.equal(batches.centroids, again.centroids)
    if spherical:
        torch.testing.assert_close(batches.centroids.norm(dim=1), torch.ones(12))


def test_a_centroid_of_mini_batches_is_the_mean_of_all_that_it_ever_took():
    points = torch.tensor([[0.0], [1.0], [2.0], [100.0], [101.0], [105.0]])
    centroids, counts = torch.tensor([[[0.0], [100.0]]]), torch.zeros(1, 2)
    for batch in (points[[0, 3]], points[[1, 2, 4]], points[[5]]):
        centroids, counts = clustering.running_means(batch, centroids, counts)
    assert centroids[0, :, 0].tolist() == pytest.approx([1.0, 102.0])
    assert counts.tolist() == [[3, 3]]


def test_mini_batches_of_fewer_points_than_clusters_are_refused():
    with pytest.raises(ValueError, match="4 clusters of 3 points"):
        clustering.minibatch(torch.zeros(3, 2), 4)
