"""Communities of clusters that lie side by side: neighbours, co-occurrence, the graph and its partition, restated by loops.

Ziegler and Asano, Leopart, CVPR 2022, section 3.4 (community detection); Blondel et al., J. Stat. Mech. 2008 (Louvain's method);
Rosvall and Bergstrom, PNAS 2008 (Infomap).
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import random
import sys

import numpy as np
import pytest
import torch
from tiers import late

from densebench.errors import UserError
from densebench.evals.unsupervised.communities import communities, cooccurrence, graph, offsets

NEAR = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
FAR = [(0, 2), (1, 1), (2, 0), (1, -1), (0, -2), (-1, -1), (-2, 0), (-1, 1)]  # on the ray, so diagonals are counted again
FARTHER = [(0, 3), (2, 2), (3, 0), (2, -2), (0, -3), (-2, -2), (-3, 0), (-2, 2)]
HAVE_INFOMAP = importlib.util.find_spec("infomap") is not None
METHODS = ["louvain", pytest.param("infomap", marks=pytest.mark.skipif(not HAVE_INFOMAP, reason="no infomap"))]


@pytest.mark.parametrize(
    ("distances", "expected"),
    [((1,), NEAR), ((2,), FAR), ((3,), FARTHER), ((1, 2), NEAR + FAR), ((2, 2), FAR + FAR)],
    ids=["1", "2", "3", "1,2", "2,2"],
)
def test_neighbours_lie_in_eight_directions(distances, expected):
    assert sorted(offsets(distances)) == sorted(expected)
    assert all(type(step) is int for offset in offsets(distances) for step in offset)


def test_distances_are_one_and_two_and_diagonals_count_twice():
    assert offsets() == offsets((1, 2), "eight")
    assert [offsets().count(one) for one in ((1, 1), (-1, -1), (1, -1), (-1, 1), (0, 1), (0, 2), (2, 2))] == [2] * 4 + [1, 1, 0]


def test_leopart_has_another_angle():
    expected = NEAR + [(-2, -1) if one == (-1, -1) else one for one in FAR]
    assert sorted(offsets((1, 2), "leopart")) == sorted(expected)


def naive_cooccurrence(clusters, k, neighbours):
    total, images = np.zeros((k, k)), np.zeros(k)
    for image in clusters.tolist():
        counts, height, width = np.zeros((k, k)), len(image), len(image[0])
        for (y, x), (down, right) in itertools.product(itertools.product(range(height), range(width)), neighbours):
            if 0 <= y + down < height and 0 <= x + right < width and image[y][x] != image[y + down][x + right]:
                counts[image[y][x], image[y + down][x + right]] += 1
        for cluster in range(k):
            if counts[cluster].sum():
                total[cluster] += counts[cluster] / counts[cluster].sum()
                images[cluster] += 1
    return total / np.maximum(images, 1)[:, None]


@functools.cache
def drawn(seed=0):
    """Maps of different clusters: one that is in one image only, one that fills an image, one that is nowhere (the last)."""
    rng = np.random.default_rng(seed)
    maps = np.stack([rng.choice(rng.permutation(8)[:4], (6, 9)) for _ in range(5)])
    maps[2], maps[4, 1, 2:4] = 3, 8
    return torch.from_numpy(maps)


ONE_WAY = [(0, 1), (2, 0), (1, -3)]


@pytest.mark.parametrize("neighbours", [offsets(), offsets((1, 2), "leopart"), ONE_WAY, [(5, 8)], [(0, 9), (6, 0)]], ids=len)
@pytest.mark.parametrize("seed", [0, 1])
def test_cooccurrence_is_that_of_a_naive_restatement(seed, neighbours):
    clusters = drawn(seed)
    found = cooccurrence(clusters, 10, neighbours)
    assert found.shape == (10, 10)
    np.testing.assert_allclose(found.numpy(), naive_cooccurrence(clusters, 10, neighbours), rtol=1e-5, atol=1e-7)
    sums = found.sum(1)
    assert all(float(one) == pytest.approx(round(float(one)), abs=1e-5) for one in sums)
    assert not found.diagonal().any()
    assert float(sums[9]) == 0
    assert found.any() == any(abs(down) < 6 and abs(right) < 9 for down, right in neighbours)


def test_shares_are_averaged_over_images_that_have_them():
    one = torch.tensor([[0, 1, 0, 2]])
    maps = torch.stack([one, torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 0, 0]])])
    found = cooccurrence(maps, 4, [(0, 1), (0, -1)])
    # cluster 0: 2/3 beside 1 and 1/3 beside 2, then 1 beside 1; where it is alone it says nothing
    expected = [[0, (2 / 3 + 1) / 2, 1 / 6, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert cooccurrence(maps, 4, [(0, 1)])[:3, 0].tolist() == [0, 1, 0]  # what lies to the right of 1 is 0, of 2 nothing
    assert float(cooccurrence(maps, 4, [(0, 1)])[0, 2]) == pytest.approx(0.25)


def test_images_and_repeats_are_not_mixed():
    maps = drawn()
    expected = cooccurrence(maps, 10, offsets())
    torch.testing.assert_close(cooccurrence(maps.flip(0), 10, offsets()), expected)
    torch.testing.assert_close(cooccurrence(torch.cat([maps, maps]), 10, offsets()), expected)
    order = torch.tensor([4, 2, 0, 9, 8, 1, 3, 7, 5, 6])
    torch.testing.assert_close(cooccurrence(order[maps], 10, offsets())[order][:, order], expected)
    padded = torch.cat([maps, torch.full((3, 6, 9), 9)])  # images of one cluster have no neighbours of another
    torch.testing.assert_close(cooccurrence(padded, 10, offsets()), expected)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.25, 0.9])
def test_an_edge_needs_both_shares(threshold):
    matrix = torch.rand(7, 7, generator=torch.Generator().manual_seed(2)) ** 2
    matrix[0, 3] = matrix[5, 1] = 0.0  # not even at a threshold of 0
    matrix[2, 4], matrix[4, 2] = 0.25, 0.75  # the smaller is the weight, and may be the threshold itself
    expected = {}
    for i, j in itertools.combinations(range(7), 2):
        if min(matrix[i, j], matrix[j, i]) >= threshold and min(matrix[i, j], matrix[j, i]) > 0:
            expected[i, j] = pytest.approx(float(min(matrix[i, j], matrix[j, i])))
    found = graph(matrix, threshold)
    assert {(i, j): weight for i, j, weight in found} == expected
    assert len(found) == len(expected)
    assert (threshold == 0.9) is (not found)


def cliques(sizes, bridges=(), weight=1.0):
    """Edges of cliques side by side, and the partition that they are."""
    edges, partition, first = [], [], 0
    for number, size in enumerate(sizes):
        edges += [(i, j, weight) for i, j in itertools.combinations(range(first, first + size), 2)]
        partition += [number + 1] * size
        first += size
    return [*edges, *bridges], partition


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", late(range(3), 0))
def test_two_cliques_with_a_weak_edge_are_two_communities(method, seed):
    edges, partition = cliques((5, 4), [(4, 5, 0.1)])
    more = {"resolution": 1.0} if method == "louvain" else {}
    assert communities(edges, 9, method=method, seed=seed, **more).tolist() == partition
    assert communities(edges, 9, method=method, seed=seed, wanted=2).tolist() == partition
    assert communities(edges, 12, method=method, seed=seed, wanted=2).tolist() == [*partition, 0, 0, 0]


def test_weights_decide_what_belongs_together():
    """A ring of four: it breaks where the weights are small, wherever that is."""
    for shift in range(4):
        ring = [((i + shift) % 4, (i + 1 + shift) % 4, weight) for i, weight in enumerate((1.0, 0.05, 1.0, 0.05))]
        found = communities([(min(i, j), max(i, j), w) for i, j, w in ring], 4, resolution=1.0).tolist()
        assert found == ([1, 1, 2, 2] if shift % 2 == 0 else [1, 2, 2, 1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wanted", [1, 2, 3, 9])
def test_what_is_not_connected_never_shares_a_community(method, wanted):
    if method == "infomap" and wanted < 3:
        pytest.skip("Infomap joins even these where fewer modules are preferred")
    edges, partition = cliques((3, 2, 4), weight=0.2)
    found = communities(edges, 11, method=method, wanted=wanted).tolist()
    assert found[9:] == [0, 0]
    of = [{found[n] for n in range(9) if partition[n] == number} for number in (1, 2, 3)]
    assert sum(map(len, of)) == len(set.union(*of))
    if wanted <= 3:
        assert found[:9] == partition


@pytest.mark.parametrize("method", METHODS)
def test_a_new_order_of_clusters_or_edges_permutes_the_partition(method):
    edges, partition = cliques((5, 3, 4, 6), [(0, 6, 0.1), (9, 13, 0.1), (3, 17, 0.05)])
    rng = random.Random(0)
    for _ in range(5):
        names = rng.sample(range(20), 18)
        renamed = [(min(names[i], names[j]), max(names[i], names[j]), weight) for i, j, weight in edges]
        rng.shuffle(renamed)
        found = communities(renamed, 20, method=method, wanted=4).tolist()
        expected, numbers = [0] * 20, {}
        for name, number in sorted(zip(names, partition, strict=True)):
            expected[name] = numbers.setdefault(number, len(numbers) + 1)  # by the smallest cluster of each
        assert found == expected


HIERARCHY = cliques(
    (5, 5, 5, 5), [(i, j, 0.3) for first in (0, 10) for i in range(first, first + 5) for j in range(first + 5, first + 10)]
)


@pytest.mark.parametrize(("wanted", "found"), [(1, 2), (2, 2), (4, 4)])
def test_the_resolution_is_chosen_by_the_number_of_communities(wanted, found):
    """Two pairs of cliques: two communities or four; a pair has no edge to the other, so there is never one."""
    result = communities(HIERARCHY[0], 20, wanted=wanted).tolist()
    assert result == ([1] * 10 + [2] * 10 if found == 2 else HIERARCHY[1])


@pytest.mark.parametrize(("resolution", "found"), [(0.5, 2), (1.0, 2), (2.0, 4)])
def test_a_resolution_that_is_given_is_taken(resolution, found):
    """Cliques of weight 10 each with 7.5 between two of a pair merge below 1.09: 7.5 / 55 > r * 27.5 ** 2 / (2 * 55 ** 2)."""
    for wanted in (None, 1, 2, 4, 20):
        result = communities(HIERARCHY[0], 20, resolution=resolution, wanted=wanted).tolist()
        assert len(set(result)) == found


def noisy(k=24, seed=0):
    rng = np.random.default_rng(seed)
    pairs = itertools.combinations(range(k), 2)
    return [(i, j, float(rng.random())) for i, j in pairs if rng.random() < 0.3]


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_and_random_numbers_of_others_are_left_alone(method):
    edges = noisy()
    own, numpys = torch.get_rng_state(), np.random.get_state()[1].tolist()
    found = [communities(edges, 24, method=method, seed=seed, wanted=5) for seed in (3, 3)]
    assert torch.equal(*found)
    assert torch.equal(torch.get_rng_state(), own)
    assert np.random.get_state()[1].tolist() == numpys
    random.seed(99)
    assert torch.equal(communities(edges, 24, method=method, seed=3, wanted=5), found[0])
    if method == "louvain":  # such a graph has many partitions that are nearly as good
        assert len({tuple(communities(edges, 24, seed=seed, resolution=1.0).tolist()) for seed in range(8)}) > 1


@pytest.mark.parametrize("seed", range(8))
def test_numbers_run_from_one_by_the_smallest_cluster(seed):
    result = communities(noisy(seed=seed), 26, seed=seed, wanted=6)
    assert result.shape == (26,)
    assert not result.dtype.is_floating_point
    connected = {end for i, j, _ in noisy(seed=seed) for end in (i, j)}
    assert {n for n, number in enumerate(result.tolist()) if number} == connected
    first = list(dict.fromkeys(number for number in result.tolist() if number))
    assert first == list(range(1, len(first) + 1))
    assert len(first) > 1


def test_louvain_finds_much_of_the_modularity_there_is():
    """A partition by hand has less modularity than the one that is found (resolution 1)."""

    def modularity(edges, partition):
        total, degree = sum(w for *_, w in edges), np.zeros(len(partition))
        for i, j, w in edges:
            degree[i] += w
            degree[j] += w
        inside = sum(w for i, j, w in edges if partition[i] == partition[j]) / total
        return inside - sum((degree[np.asarray(partition) == c].sum() / (2 * total)) ** 2 for c in set(partition))

    planted = [n // 6 for n in range(24)]
    edges = [(i, j, w if planted[i] == planted[j] else w * 0.6) for i, j, w in noisy(seed=4)]
    found = communities(edges, 24, resolution=1.0).tolist()
    assert modularity(edges, found) >= modularity(edges, planted) - 1e-9
    assert modularity(edges, found) > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_without_an_edge_there_is_no_community(method):
    for more in ({}, {"wanted": 3}):
        assert communities([], 4, method=method, **more).tolist() == [0, 0, 0, 0]


def test_infomap_that_is_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "infomap", None)
    with pytest.raises(UserError, match=r"pip install 'densebench\[infomap\]'"):
        communities(cliques((3, 2))[0], 5, method="infomap", wanted=2)


def test_the_whole_chain_finds_objects_made_of_parts():
    """Two objects of two parts each, apart from one another in different images on background 4: parts of an object meet."""
    maps = torch.full((4, 8, 8), 4)
    maps[0, 1:3, 1:5], maps[0, 3:5, 1:5] = 0, 2
    maps[1, 2:6, 3:5], maps[1, 2:6, 5:7] = 1, 3
    maps[2], maps[3] = maps[0].T, maps[1].flip(0)
    edges = graph(cooccurrence(maps, 5, offsets()), 0.2)
    assert {(i, j) for i, j, _ in edges if j < 4} == {(0, 2), (1, 3)}
    found = communities([edge for edge in edges if edge[1] < 4], 5, wanted=2).tolist()
    assert found == [1, 2, 1, 2, 0]


@pytest.mark.skipif(importlib.util.find_spec("infomap") is None, reason="infomap is not installed")
def test_infomap_works_beside_faiss():
    """Bindings of both share a table of types: in one process the second would crash the first."""
    import faiss

    points = np.random.default_rng(0).random((50, 3), np.float32)
    faiss.Kmeans(3, 2, niter=1, min_points_per_centroid=1).train(points)
    assert communities([(0, 1, 1.0), (2, 3, 1.0)], 4, method="infomap", wanted=2).tolist() == [1, 1, 2, 2]
