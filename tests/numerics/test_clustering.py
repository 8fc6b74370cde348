"""K-means: each piece and whole fits against plain float64 loops, faiss and scikit-learn; draws, restarts, empty clusters.

Lloyd, Least squares quantization in PCM, 1982; Arthur and Vassilvitskii, k-means++, SODA 2007; Johnson, Douze, Jégou, Billion-
scale similarity search with GPUs (faiss), 2017.
"""

from __future__ import annotations

import itertools

import faiss
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans

from densebench.numerics import kmeans as clustering
from densebench.numerics.kmeans import Clusters, assign, first_points, kmeans, labels, means, plus_plus, sample


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def blobs(n, d, centres, spread, seed=0):
    """Points around random centres, and the blob of each."""
    where = torch.arange(n) % centres
    return normal(centres, d, seed=seed)[where] * spread + normal(n, d, seed=seed + 1), where


def distances(points, centroids):
    """[n, k] squared distances, float64, by subtraction."""
    return (points.double()[:, None] - centroids.double()[None]).square().sum(-1)


def inertia_of(points, centroids):
    return distances(points, centroids).min(1).values.sum().item()


def unit(vectors):
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def lloyd(points, centroids, updates=200, spherical=False):
    """[(inertia, centroids)] before any update, after one, two, ...; for data in which no cluster becomes empty."""
    points, centroids, states = points.double(), centroids.double(), []
    for _ in range(updates + 1):
        centroids = unit(centroids) if spherical else centroids
        states.append((inertia_of(points, centroids), centroids))
        nearest = distances(points, centroids).argmin(1)
        centroids = torch.stack([points[nearest == cluster].mean(0) for cluster in range(len(centroids))])
        assert centroids.isfinite().all(), "an empty cluster: this data does not suit the plain loop"
    return states


def stopped(states, tolerance):
    """The index of the first state whose inertia is less than the share `tolerance` below the one before."""
    return next(i for i in range(1, len(states)) if states[i - 1][0] - states[i][0] < tolerance * states[i - 1][0])


def same_partition(one, other):
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def start_from(monkeypatch, centroids):
    """Every fit starts at these centroids."""
    monkeypatch.setattr(clustering, "first_points", lambda points, clusters, restarts, generator: centroids[None].to(points))


# --- what is trained on


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


def test_by_default_256_points_a_cluster_are_used():
    points = normal(600, 2)
    fit, told = kmeans(points, 2), kmeans(points, 2, per_cluster=256)
    assert torch.equal(fit.centroids, told.centroids)
    assert fit.inertia == pytest.approx(inertia_of(points[sample(600, 2, 256, 0)], fit.centroids), rel=1e-5)


# --- the steps


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
    moved, fit = means(points, nearest, centroids), kmeans(points, 6, restarts=2)
    monkeypatch.setattr(clustering, "BLOCK", block)
    again, gain_again = assign(points, centroids)
    assert torch.equal(nearest, again)
    torch.testing.assert_close(gain, gain_again)
    torch.testing.assert_close(means(points, again, centroids), moved)
    torch.testing.assert_close(kmeans(points, 6, restarts=2).centroids, fit.centroids)


def test_means_are_those_of_each_clusters_points():
    points, nearest = normal(60, 4), torch.stack([torch.arange(60) % 5, torch.arange(60) // 12])
    found = means(points, nearest, torch.full((2, 5, 4), 7.0))
    for r, cluster in itertools.product(range(2), range(5)):
        expected = points[nearest[r] == cluster].double().mean(0)
        torch.testing.assert_close(found[r, cluster].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("centre", [5.0, 0.0], ids=["off zero", "mean zero"])
def test_an_empty_cluster_takes_the_point_farthest_from_its_centroid(centre):
    large = torch.tensor([[-3.0, -1.0], [-1.0, -0.5], [1.0, 0.5], [3.5, 1.0]]) + centre
    points = torch.cat([torch.tensor([[90.0, 80.0], [92.0, 82.0]]), large])
    nearest = torch.tensor([[2, 2, 1, 1, 1, 1]])
    before = torch.tensor([[[500.0, 500.0], [centre, centre], [91.0, 81.0]]])
    found = means(points, nearest, before)
    torch.testing.assert_close(found[0, 0], large[3])
    torch.testing.assert_close(found[0, 1], large.mean(0))
    torch.testing.assert_close(found[0, 2], torch.tensor([91.0, 81.0]))
    assert torch.bincount(assign(points, found)[0][0], minlength=3).min() > 0


def test_a_restart_without_an_empty_cluster_is_left_alone():
    points = normal(40, 3) + 4
    whole, split = torch.arange(40) % 4, torch.arange(40) % 3
    found = means(points, torch.stack([split, whole]), torch.zeros(2, 4, 3))
    assert torch.equal(found[1], means(points, whole[None], torch.zeros(1, 4, 3))[0])
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


def test_plus_plus_over_many_seeds_and_single_restarts():
    points = torch.tensor([[0.0], [1.0], [3.0]])
    pairs = [plus_plus(points, 2, 1, seeded(seed))[0, :, 0].tolist() for seed in range(900)]
    orders = list(itertools.permutations([0.0, 1.0, 3.0], 2))
    totals = {0.0: 10, 1.0: 5, 3.0: 13}
    expected = [300 * (a - b) ** 2 / totals[a] for a, b in orders]
    assert stats.chisquare([pairs.count(list(order)) for order in orders], expected).pvalue > 1e-4


def test_plus_plus_takes_no_point_twice_while_others_remain():
    points = torch.cat([torch.full((50, 2), 3.3), torch.tensor([[3.3, 3.4], [8.0, 1.0], [-2.0, 0.1]])])
    for restart in plus_plus(points, 4, 200, seeded()):
        assert len(torch.unique(restart, dim=0)) == 4
    for restart in plus_plus(points, 6, 20, seeded()):
        assert restart.isfinite().all() and len(torch.unique(restart, dim=0)) == 4


# --- whole fits


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


@pytest.mark.parametrize("seed", range(4))
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


def heavy_tailed(n, d):
    return torch.from_numpy(np.random.default_rng(0).standard_t(3, (n, d)).astype(np.float32))


SETS = {
    "blobs": lambda: blobs(2000, 8, 30, 1.5)[0],
    "uniform": lambda: torch.rand(2000, 4, generator=seeded()),
    "heavy-tailed": lambda: heavy_tailed(2000, 4),
    "skewed scales": lambda: normal(2000, 6) * 0.5 ** torch.arange(6),
}


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("name", SETS)
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


@pytest.mark.parametrize("name", SETS)
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


@pytest.mark.parametrize("scale", [1e-4, 0.5, 1e4])
def test_scaled_points_are_parted_alike(monkeypatch, scale):
    points = normal(300, 4)
    states = lloyd(points, points[:5])
    start_from(monkeypatch, points[:5] * scale)
    fit = kmeans(points * scale, 5)
    assert fit.inertia == pytest.approx(states[fit.iterations][0] * scale**2, rel=1e-4)
    assert torch.equal(labels(points * scale, fit), distances(points, states[fit.iterations][1]).argmin(1))


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


def test_no_cluster_stays_empty_where_most_points_are_equal():
    points = torch.cat([torch.tensor([[1.0, 2.0, 3.0]]).repeat(500, 1), normal(12, 3) * 5])
    fit = kmeans(points, 8, per_cluster=None)
    assert (torch.bincount(labels(points, fit), minlength=8) > 0).all()


# --- labels, seeds, threads


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
        centroids, counts = clustering._running_means(batch, centroids, counts)
    assert centroids[0, :, 0].tolist() == pytest.approx([1.0, 102.0])
    assert counts.tolist() == [[3, 3]]


def test_mini_batches_of_fewer_points_than_clusters_are_refused():
    with pytest.raises(ValueError, match="4 clusters of 3 points"):
        clustering.minibatch(torch.zeros(3, 2), 4)
