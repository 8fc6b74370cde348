"""The clustering of CrIBo: linkage by hand, the whole algorithm in loops, groups, order, overlap, no reads from the device."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from densebench.pretrain.cribo.partition import linkage, partition


def problem(b, joint, d=5, seed=0):
    """Tokens with structure, positions in px, noise."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(b, 4, d, generator=generator, dtype=torch.float64)
    member = torch.randint(0, 4, (b, joint), generator=generator)
    spread = torch.randn(b, joint, d, generator=generator, dtype=torch.float64)
    tokens = centres.gather(1, member[:, :, None].expand(-1, -1, d)) + 0.6 * spread
    positions = torch.rand(b, joint, 2, generator=generator, dtype=torch.float64) * 300
    return tokens, positions, torch.rand(b, joint, generator=generator, dtype=torch.float64)


def canonical(labels):
    """Clusters renamed by their first patch, so that only who is with whom counts."""
    names = {}
    return [names.setdefault(label, len(names)) for label in labels]


def same(found, expected):
    return [canonical(row) for row in found.tolist()] == [canonical(row) for row in expected]


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length > 0 else vector


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive_linkage(positions, clusters):
    """positions [n] of (x, y); clusters [k] of sets of patches."""
    pos = []
    for here in positions:
        row = []
        for members in clusters:
            distances = [math.dist(here, positions[m]) for m in sorted(members)]
            distances = [x for x in distances if x > 0]
            row.append(min(distances) if distances else 0.0)
        pos.append(row)
    mean = sum(map(sum, pos)) / (len(pos) * len(clusters))
    pos = [[x if x > 0 else mean for x in row] for row in pos]
    largest = max(map(max, pos))
    return [[x / largest if largest else 0.0 for x in row] for row in pos]


def naive_sinkhorn(cost, rows, columns, sharpness, iterations):
    plan = [[math.exp(-sharpness * x) for x in row] for row in cost]
    for _ in range(iterations):
        plan = [[x * r / sum(row) for x in row] for row, r in zip(plan, rows, strict=True)]
        totals = [sum(row[k] for row in plan) for k in range(len(columns))]
        plan = [[x * columns[k] / totals[k] for k, x in enumerate(row)] for row in plan]
    return plan


def naive(tokens, positions, noise, count, lambda_pos, rounds=5, sharpness=20.0, iterations=5, update=True):
    """CrIBo's clustering of one group of images, in plain Python: the images only share the extremes of the cost."""
    images, joint = len(tokens), len(tokens[0])
    tokens = [[unit(t) for t in image] for image in tokens]
    clusters, centroids, marginals = [], [], []
    for i in range(images):
        first = sorted(range(joint), key=lambda n: -noise[i][n])[:count]
        clusters.append([{n} for n in first])
        centroids.append([tokens[i][n] for n in first])
        marginals.append([1 / count] * count)
    labels = []
    for _ in range(rounds):
        costs = []
        for i in range(images):
            place = naive_linkage(positions[i], clusters[i])
            cost = [[-dot(t, c) + lambda_pos * place[n][k] for k, c in enumerate(centroids[i])] for n, t in enumerate(tokens[i])]
            costs.append(cost)
        values = [x for cost in costs for row in cost for x in row]
        low, high = min(values), max(values)
        labels = []
        for i in range(images):
            cost = [[(x - low) / (high - low) for x in row] for row in costs[i]]
            plan = naive_sinkhorn(cost, [1 / joint] * joint, marginals[i], sharpness, iterations)
            labels.append([row.index(max(row)) for row in plan])
            clusters[i] = [{n for n in range(joint) if labels[i][n] == k} for k in range(count)]
            sums = [[sum(tokens[i][n][x] for n in members) for x in range(len(tokens[i][0]))] for members in clusters[i]]
            centroids[i] = [unit(vector) for vector in sums]
            if update:
                sizes = [len(members) + 0.01 for members in clusters[i]]
                marginals[i] = [size / sum(sizes) for size in sizes]
    return labels


def lists(*tensors):
    return [tensor.tolist() for tensor in tensors]


def test_linkage_by_hand():
    places = torch.tensor([0.0, 1.0, 3.0])
    distances = (places[:, None] - places).abs().masked_fill(torch.eye(3, dtype=torch.bool), torch.inf)[None]
    found = linkage(distances, torch.tensor([[0, 0, 1]]), 2)
    expected = torch.tensor([[[1, 3], [1, 2], [2, 1.5]]]) / 3  # the last has nobody beside itself: the mean of 1, 3, 1, 2, 2, 0
    torch.testing.assert_close(found, expected)


def test_linkage_of_patches_without_a_cluster():
    places = torch.tensor([0.0, 1.0, 3.0])
    distances = (places[:, None] - places).abs().masked_fill(torch.eye(3, dtype=torch.bool), torch.inf)[None]
    found = linkage(distances, torch.tensor([[1, 2, 0]]), 2)  # patch 1 is in no cluster
    mean = (3 + 0 + 2 + 1 + 0 + 3) / 6
    torch.testing.assert_close(found, torch.tensor([[[3, mean], [2, 1], [mean, 3]]]) / 3)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(2, 8), st.integers(1, 4), st.integers(0, 99))
def test_linkage_equals_the_naive_restatement(n, count, seed):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randint(0, 4, (2, n, 2), generator=generator).double()  # many lie at the same place
    positions[:, 0] = 10.0
    labels = torch.randint(0, count + 1, (2, n), generator=generator)
    distances = torch.linalg.vector_norm(positions[:, :, None] - positions[:, None], dim=3)
    distances = torch.where(distances > 0, distances, torch.inf)
    found = linkage(distances, labels, count)
    for image in range(2):
        clusters = [{i for i in range(n) if labels[image, i] == k} for k in range(count)]
        expected = torch.tensor(naive_linkage(positions[image].tolist(), clusters), dtype=torch.float64)
        torch.testing.assert_close(found[image], expected)


@pytest.mark.parametrize(
    "options", [{}, {"rounds": 1}, {"rounds": 2}, {"iterations": 1}, {"sharpness": 3.0}, {"update_marginal": False}]
)
@pytest.mark.parametrize("lambda_pos", [0.0, 2.0])
def test_equals_the_naive_restatement(options, lambda_pos):
    for seed in range(3):
        tokens, positions, noise = problem(3, 18, seed=seed)
        restated = {"update" if name == "update_marginal" else name: value for name, value in options.items()}
        expected = naive(*lists(tokens, positions, noise), 4, lambda_pos, **restated)
        assert same(partition(tokens, positions, noise, 4, lambda_pos, **options), expected)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(1, 3), st.integers(3, 8), st.integers(2, 6), st.floats(0.1, 4.0), st.integers(0, 999))
def test_any_size_equals_the_naive_restatement(b, half, count, lambda_pos, seed):
    tokens, positions, noise = problem(b, 2 * half, seed=seed)
    found = partition(tokens, positions, noise, count, lambda_pos)
    assert same(found, naive(*lists(tokens, positions, noise), count, lambda_pos))
    assert found.min() >= 0
    assert found.max() < count


def test_single_precision_finds_the_same():
    tokens, positions, noise = problem(4, 32, seed=5)
    found = partition(tokens.float(), positions.float(), noise.float(), 5, 2.0)
    assert same(found, naive(*lists(tokens, positions, noise), 5, 2.0))


def test_the_options_of_the_algorithm_matter():
    tokens, positions, noise = problem(4, 24, seed=1)
    default = partition(tokens, positions, noise, 5, 2.0)
    changes = [{"rounds": 1}, {"iterations": 1}, {"sharpness": 3.0}, {"update_marginal": False}, {"group": 1}]
    assert all(not torch.equal(partition(tokens, positions, noise, 5, 2.0, **change), default) for change in changes)
    assert not torch.equal(partition(tokens, positions, noise, 5, 0.0), default)


def test_the_patches_with_most_noise_start_the_clusters():
    """Four kinds of patches; with one round each patch joins the start of its own kind."""
    tokens = torch.eye(4).repeat(1, 4, 1)
    positions = torch.arange(32.0).view(1, 16, 2)
    noise = torch.full((1, 16), 0.3)
    noise[0, [6, 3, 8, 13]] = torch.tensor([0.9, 0.8, 0.7, 0.6])  # kinds 2, 3, 0, 1
    found = partition(tokens, positions, noise, 4, 0.0, rounds=1)[0].tolist()
    assert canonical(found) == [0, 1, 2, 3] * 4
    noise[0, 8] = 0.1  # now kind 0 has no start of its own unless another patch of it is drawn
    noise[0, 5] = 0.95  # a second start of kind 1
    found = partition(tokens, positions, noise, 4, 0.0, rounds=1)[0].tolist()
    assert found[0] == found[4] == found[8]
    assert len({found[1], found[2], found[3]}) == 3


def test_overlapping_patches_do_not_measure_each_other():
    """Both views show the same crop: every patch has a twin at distance 0, which does not count."""
    for seed in range(4):
        tokens, _, noise = problem(2, 36, seed=seed)
        columns, rows = torch.meshgrid(torch.arange(6.0), torch.arange(3.0), indexing="xy")
        place = torch.stack([401.3 + 37.7 * columns, 299.9 + 53.1 * rows], dim=2).view(1, 18, 2)
        positions = place.repeat(2, 2, 1)
        expected = naive(*lists(tokens, positions.double(), noise), 5, 4.0)
        assert same(partition(tokens.float(), positions, noise.float(), 5, 4.0), expected)


def test_all_patches_at_one_place_leave_the_meaning():
    tokens, positions, noise = problem(2, 16, seed=2)
    found = partition(tokens, torch.ones_like(positions), noise, 4, 2.0)
    assert same(found, naive(*lists(tokens, positions, noise), 4, 0.0))


def test_a_group_of_one_does_not_see_its_batch():
    tokens, positions, noise = problem(5, 20, seed=3)
    together = partition(tokens, positions, noise, 4, 2.0, group=1)
    alone = torch.cat([partition(tokens[i : i + 1], positions[i : i + 1], noise[i : i + 1], 4, 2.0) for i in range(5)])
    assert torch.equal(together, alone)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.equal(partition(tokens[order], positions[order], noise[order], 4, 2.0, group=1), together[order])


def test_groups_are_consecutive_and_the_last_may_be_smaller():
    tokens, positions, noise = problem(5, 20, seed=4)
    tokens[::2] = tokens[::2].mean(1, keepdim=True) + 0.1 * tokens[::2]  # images whose costs span less
    found = partition(tokens, positions, noise, 4, 2.0, group=2)
    parts = [partition(tokens[s], positions[s], noise[s], 4, 2.0) for s in (slice(0, 2), slice(2, 4), slice(4, 5))]
    assert torch.equal(found, torch.cat(parts))
    whole = partition(tokens, positions, noise, 4, 2.0, group=0)
    assert torch.equal(whole, partition(tokens, positions, noise, 4, 2.0, group=5))
    assert not torch.equal(found, whole)
    assert not torch.equal(whole, partition(tokens, positions, noise, 4, 2.0, group=1))


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(0, 999), st.randoms(use_true_random=False))
def test_patches_may_come_in_any_order(seed, random):
    tokens, positions, noise = problem(2, 16, seed=seed)
    order = list(range(16))
    random.shuffle(order)
    found = partition(tokens[:, order], positions[:, order], noise[:, order], 4, 1.0)
    assert torch.equal(found, partition(tokens, positions, noise, 4, 1.0)[:, order])


def test_swapped_views_swap_the_labels():
    tokens, positions, noise = problem(3, 24, seed=6)
    found = partition(tokens.roll(12, 1), positions.roll(12, 1), noise.roll(12, 1), 5, 2.0)
    assert torch.equal(found.roll(12, 1), partition(tokens, positions, noise, 5, 2.0))


def test_lengths_of_tokens_and_units_of_positions_do_not_count():
    tokens, positions, noise = problem(3, 24, seed=7)
    lengths = 0.2 + torch.rand(3, 24, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = partition(tokens * lengths, 7 * positions - 100, noise, 5, 2.0)
    assert torch.equal(found, partition(tokens, positions, noise, 5, 2.0))


def test_a_cluster_for_every_patch():
    tokens, positions, noise = problem(1, 6, d=8, seed=8)
    assert same(partition(tokens, positions, noise, 6, 1.0), naive(*lists(tokens, positions, noise), 6, 1.0))


def test_nothing_is_read_back_from_the_device():
    with FakeTensorMode():
        labels = partition(torch.randn(2, 18, 4), torch.rand(2, 18, 2), torch.rand(2, 18), 4, 2.0, group=1)
        assert labels.shape == (2, 18)
        assert not labels.is_floating_point()
