"""Points that are dealt out to processes: every number is that of one process, to the last bit, however many share the work.

The processes are threads here; `test_clusters_of_two_processes.py` has real ones.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from point_sets import as_on_a_gpu, blobs, normal, seeded
from processes_as_threads import in_threads
from tiers import late_rows

from densebench.numerics import dealt_points
from densebench.numerics.dealt_points import Deal, dealt_rows
from densebench.numerics.first_centroids import drawn, first_points, plus_plus, trained_on
from densebench.numerics.kmeans import cluster_each, kmeans, kmeans_each
from densebench.numerics.lloyd import Start, lloyd, refill
from densebench.processes import rank, world_size

SIZES = (2, 7)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch):
    """Runs of 16 rows, so that few points already lie in several processes."""
    monkeypatch.setattr(dealt_points, "ROWS", 16)


def dealt(points, run=16):
    """This process's part of some points."""
    return dealt_rows(points[Deal(len(points), run, world_size()).of(rank())], len(points), run)


def same_in_all(results):
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)
    return results[0]


@pytest.mark.parametrize("size", [1, *SIZES])
@pytest.mark.parametrize(("count", "run"), [(1, 1), (1, 16), (16, 16), (50, 1), (50, 7), (33, 16), (5, 2)])
def test_every_thing_is_dealt_once_in_order_and_found_where_it_is(count, run, size):
    deal = Deal(count, run, size)
    parts = [deal.of(number).tolist() for number in range(size)]
    expected = [[n for n in range(count) if n // run % size == number] for number in range(size)]
    assert parts == expected
    assert max(map(len, parts)) <= deal.most and deal.most % run == 0
    owner, place = deal.place(torch.arange(count))
    assert [parts[o][p] for o, p in zip(owner.tolist(), place.tolist(), strict=True)] == list(range(count))
    filled = [[of_rank + [-1] * (deal.most - len(of_rank))] * 2 for of_rank in parts]
    assert deal.ordered(torch.tensor(filled)).tolist() == [list(range(count))] * 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("count", "run"), [(90, 16), (90, 5), (3, 16), (1, 1)])
def test_points_are_found_taken_and_sent(count, run, size):
    points = normal(count, 40)
    numbers = torch.randint(count, (2, 11), generator=seeded())
    taken = torch.randint(count, (35,), generator=seeded(1))

    def work():
        own = dealt(points, run)
        again = own.take(taken)
        assert torch.equal(own.joined(own.rows[:, 3]), points[:, 3]) and torch.equal(own.own(points[:, 1]), own.rows[:, 1])
        assert torch.equal(own.columns, points[:, own.by_columns.of(rank())])
        assert torch.equal(own[numbers], points[numbers])
        assert torch.equal(again[torch.arange(35)], points[taken]) and len(again) == 35
        assert torch.equal(own.to_one(taken, size - 1), points[taken] if rank() == size - 1 else points[:0])
        return len(own.rows), len(again.rows), own.columns.shape[1]

    held = in_threads(size, work)
    assert [sum(numbers) for numbers in zip(*held, strict=True)] == [count, 35, 40]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("width", [3, 50, 130])
def test_means_and_first_centroids_are_those_of_one_process(width, size):
    points = normal(200, width) * 3 + 1
    expected = [points.mean(0)]
    expected += [begin(points, 9, restarts, seeded(2)) for begin in (first_points, plus_plus) for restarts in (1, 4)]

    def work():
        own = dealt(points)
        found = [begin(own, 9, restarts, seeded(2)) for begin in (first_points, plus_plus) for restarts in (1, 4)]
        return [own.mean(), *found]

    torch.testing.assert_close(same_in_all(in_threads(size, work)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("count", "run"), [(60, 16), (60, 4), (2, 16), (1, 1)])
def test_shares_of_dealt_weights_fall_where_a_loop_finds_them(count, run, size):
    weights = torch.randint(0, 4, (5, count), generator=seeded())
    weights[:, -1] += 1
    weights[4] = 0
    shares = torch.tensor([0.0, 0.3, 0.7, 1.0, 0.5], dtype=torch.float64)
    expected = []
    for row, share in zip(weights.tolist(), shares.tolist(), strict=True):
        wanted = int(share * sum(row))
        beyond = [n for n, cumulated in enumerate(itertools.accumulate(row)) if cumulated > wanted]
        expected.append(beyond[0] if beyond else count - 1)
    assert drawn(weights, shares, Deal(count, run, 1)).tolist() == expected

    def work():
        deal = Deal(count, run, size)
        return drawn(weights[:, deal.of(rank())], shares, deal)

    assert same_in_all(in_threads(size, work)).tolist() == expected


GIVEN = {
    "points": {"restarts": 3, "per_cluster": 20},
    "k-means++, all points": {"init": "k-means++", "per_cluster": None},
    "spherical": {"restarts": 2, "spherical": True, "per_cluster": 20},
    "to the last": {"restarts": 2, "tolerance": 0.0, "per_cluster": None, "iterations": 40},
    "more clusters than blobs": {"restarts": 4, "per_cluster": 3},
}


@pytest.mark.parametrize(("size", "run"), late_rows([(2, 9), (3, 16)], (3, 16)))
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_clusters_are_those_of_one_process(given, size, run):
    points, problems = blobs(310, 20, 12, 2.0)[0] + 3, ((5, 0), (5, 1), (20, 0))
    expected = [kmeans(points, k, seed=seed, **given) for k, seed in problems]

    def work():
        own = dealt(points, run)
        return list(kmeans_each([(own, k, seed) for k, seed in problems], **given))

    for fits in in_threads(size, work):
        for fit, one in zip(fits, expected, strict=True):
            assert torch.equal(fit.centroids, one.centroids)
            assert fit.inertia == pytest.approx(one.inertia, rel=1e-12) and fit.iterations == one.iterations


@pytest.mark.parametrize("width", [3, 20])
def test_clusters_the_way_of_a_gpu_are_those_of_one_process(monkeypatch, width):
    """Several clusterings in the same passes, of the same and of different points; some processes have no row, or no column."""
    as_on_a_gpu(monkeypatch)
    points = blobs(310, width, 12, 2.0)[0] + 3
    problems = ((points, 5, 0), (points, 5, 1), (points[:150], 40, 0), (points[:150], 40, 1))
    for given in ({"per_cluster": None, "restarts": 2}, {"per_cluster": 3, "restarts": 3, "spherical": True}):
        expected = list(kmeans_each(problems, **given))

        def work(given=given):
            dealt_out = {len(some): dealt(some) for some in (points, points[:150])}
            return list(kmeans_each([(dealt_out[len(some)], k, seed) for some, k, seed in problems], **given))

        for fits in in_threads(2, work):
            for fit, one in zip(fits, expected, strict=True):
                assert torch.equal(fit.centroids, one.centroids) and fit.iterations == one.iterations


@pytest.mark.parametrize(("size", "run"), [(2, 16), (9, 1)])
def test_processes_without_a_point_take_part(size, run):
    points, given = normal(7, 3), {"restarts": 2, "init": "k-means++", "per_cluster": None}
    expected = kmeans(points, 3, **given)
    for fit in in_threads(size, lambda: kmeans(dealt(points, run), 3, **given)):
        assert torch.equal(fit.centroids, expected.centroids)


@pytest.mark.parametrize("size", [2, 3])
def test_empty_clusters_are_refilled_as_in_one_process(size):
    points = torch.randint(-3, 4, (100, 2), generator=seeded()).float()
    centroids = 2 * normal(3, 45, 2)
    options = {"iterations": 60, "tolerance": 0.0, "spherical": False}
    expected = lloyd([Start(points, centroids, torch.zeros(2))], **options)[0]
    nearest, before = torch.arange(100) % 3 + 2, normal(5, 2, seed=3)
    of_one, at_one = nearest.clone(), before.clone()
    refill(points, of_one, at_one, [0, 1])

    def work():
        own, moved, at = dealt(points), nearest.clone(), before.clone()
        refill(own, moved, at, [0, 1])
        assert torch.equal(moved, of_one) and torch.equal(at, at_one)
        return lloyd([Start(own, centroids, torch.zeros(2))], **options)[0]

    for fit in in_threads(size, work):
        assert torch.equal(fit.centroids, expected.centroids) and fit.iterations == expected.iterations


@dataclass(frozen=True)
class Settings:
    engine: str
    init: str = "points"
    per_cluster: int | None = 15
    iterations: int = 10
    restarts: int = 2


@pytest.mark.parametrize("size", [3])
@pytest.mark.parametrize("engine", ["torch", "minibatch", "sklearn", "faiss"])
def test_every_engine_gives_the_clusters_of_one_process(engine, size):
    """Five problems: the last round of three processes that work alone has two problems for them."""
    points, settings = blobs(200, 6, 5, 3.0)[0], Settings(engine)
    expected = list(cluster_each(settings, [(points, 4, seed) for seed in range(5)]))
    for fits in in_threads(size, lambda: list(cluster_each(settings, [(dealt(points), 4, seed) for seed in range(5)]))):
        assert len(fits) == 5
        for fit, one in zip(fits, expected, strict=True):
            assert torch.equal(fit.centroids, one.centroids) and fit.inertia == pytest.approx(one.inertia, rel=1e-12)


def test_training_points_are_dealt_out_evenly():
    points = normal(1000, 3)
    held = in_threads(3, lambda: len(trained_on(dealt(points, 500), 5, 60, 0).rows))
    assert sum(held) == 300 and max(held) - min(held) <= 16
