"""The clustering of CrOC: steps by hand, the whole loop in plain Python for the code's and the paper's rules, invariances."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from densebench.pretrain.croc import merging
from densebench.pretrain.croc.merging import Rules, merge_clusters
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

CODE = Rules(start=6, most=6)
PAPER = Rules(start=6, most=6, scores_are_shares=True, merge="cosine", follow="tokens", quality="semantic", assign="row")


def problem(p, joint, d=4, seed=0, shares=False):
    """Tokens with structure, positions in px, scores (cosines, or attention), noise."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(p, 4, d, generator=generator)
    member = torch.randint(0, 4, (p, joint), generator=generator)
    spread = torch.randn(p, joint, d, generator=generator)
    tokens = centres.gather(1, member[:, :, None].expand(-1, -1, d)) + 0.7 * spread
    positions = torch.rand(p, joint, 2, generator=generator) * 300
    scores = torch.rand(p, joint, generator=generator) * 2 - 1
    if shares:
        scores = (2 * scores).softmax(1)
    return tokens, positions, scores, torch.rand(p, joint, generator=generator)


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def normal(values):
    return [x / sum(values) for x in values]


def combine(weights, vectors):
    """Sum of weighted vectors."""
    return [sum(w * v[x] for w, v in zip(weights, vectors, strict=True)) for x in range(len(vectors[0]))]


def transpose(matrix):
    return [list(row) for row in zip(*matrix, strict=True)]


def naive_sinkhorn(cost, rows, columns, rules):
    plan = [[math.exp(-rules.sharpness * x) for x in row] for row in cost]
    for _ in range(rules.iterations):
        plan = [[x * r / sum(row) for x in row] for row, r in zip(plan, rows, strict=True)]
        totals = [sum(column) for column in transpose(plan)]
        plan = [[x * columns[k] / totals[k] for k, x in enumerate(row)] for row in plan]
    return plan


class Problem:
    """One image and attention head."""

    def __init__(self, tokens, positions, scores, start, rules):
        self.rules, self.positions = rules, positions
        self.tokens = [unit(token) for token in tokens]
        if rules.uniform:
            self.rows = [1 / len(tokens)] * len(tokens)
        elif rules.scores_are_shares:
            self.rows = normal(scores)
        else:
            self.rows = normal([math.exp(score / rules.score_temp) for score in scores])
        # clusters are lists over k of weights over patches
        self.origin = [[float(n == first) for n in range(len(tokens))] for first in start]
        self.centroids = [self.tokens[n] for n in start]
        self.places = [positions[n] for n in start]
        self.columns = self.marginal(self.origin)
        self.history = []

    def marginal(self, clusters):
        """Of centroids, from clusters whose weights sum to 1: the paper takes a softmax of attention, the code a share."""
        if self.rules.uniform:
            return [1 / len(clusters)] * len(clusters)
        means = [dot(self.rows, cluster) for cluster in clusters]
        return normal([math.exp(mean) for mean in means] if self.rules.follow == "tokens" else means)

    def costs(self):
        self.centroids = [unit(centroid) for centroid in self.centroids]
        far = [[math.dist(here, place) for place in self.places] for here in self.positions]
        largest = max(map(max, far))
        self.meaning = [[-dot(token, centroid) for centroid in self.centroids] for token in self.tokens]
        lam = self.rules.lambda_pos
        return [[m + lam * f / largest for m, f in zip(*rows, strict=True)] for rows in zip(self.meaning, far, strict=True)]

    def step(self, low, high):
        cost = [[(x - low) / (high - low) for x in row] for row in self.costs()]
        plan = naive_sinkhorn(cost, self.rows, self.columns, self.rules)
        judged = cost if self.rules.quality == "total" else self.meaning
        self.history.append((sum(dot(*rows) for rows in zip(plan, judged, strict=True)), plan))
        if len(self.centroids) > 2:
            self.merge(transpose(plan))

    def merge(self, clusters):
        means = [combine(normal(cluster), self.tokens) for cluster in clusters]
        if self.rules.merge == "cosine":
            means = [unit(mean) for mean in means]
        pairs = [(dot(means[i], means[j]), -i, -j) for i in range(len(means)) for j in range(i + 1, len(means))]
        _, i, j = max(pairs)
        i, j = -i, -j
        stay = [k for k in range(len(clusters)) if k not in (i, j)]
        clusters = [clusters[k] for k in stay] + [[a + b for a, b in zip(clusters[i], clusters[j], strict=True)]]
        average = [(a + b) / 2 for a, b in zip(self.origin[i], self.origin[j], strict=True)]
        self.origin = [self.origin[k] for k in stay] + [average]
        followed = [normal(cluster) for cluster in clusters] if self.rules.follow == "plan" else self.origin
        self.centroids = [combine(normal(cluster), self.tokens) for cluster in clusters]
        self.places = [combine(cluster, self.positions) for cluster in followed]
        self.columns = self.marginal(followed)

    def split(self):
        """Number of clusters and, per view, weights [k][n] with None for pruned clusters."""
        allowed = [entry for entry in self.history if len(entry[1][0]) <= self.rules.most]
        plan = min(allowed, key=lambda entry: entry[0])[1]
        half = len(plan) // 2
        views = [plan[:half], plan[half:]]
        if self.rules.assign == "column":
            views = [transpose([normal(column) for column in transpose(view)]) for view in views]
        else:
            views = [[normal(row) for row in view] for view in views]
        hard = [[row.index(max(row)) for row in view] for view in views]
        found = []
        for k in range(len(plan[0])):
            if any(k not in labels for labels in hard):
                found.append(None)
            elif self.rules.assign == "column":
                found.append(
                    [[row[k] * (label == k) for row, label in zip(*v, strict=True)] for v in zip(views, hard, strict=True)]
                )
            else:
                found.append([[row[k] for row in view] for view in views])
        return len(plan[0]), found


def naive(tokens, positions, scores, noise, rules):
    """The clusters of every problem; problems meet only in the extremes of their group's costs."""
    shares = merging._shares(scores, rules)
    start = merging._sample(shares, noise, rules.start).tolist()
    p = len(tokens)
    single = [Problem(tokens[i].tolist(), positions[i].tolist(), scores[i].tolist(), start[i], rules) for i in range(p)]
    size = rules.group or p
    for first in range(0, p, size):
        group = single[first : first + size]
        for _ in range(rules.start - 1):
            values = [x for one in group for row in one.costs() for x in row]
            for one in group:
                one.step(min(values), max(values))
    return single


def check(found, single, most):
    for i, one in enumerate(single):
        count, clusters = one.split()
        assert found.count[i] == count
        assert found.valid[i].tolist() == [k < count and clusters[k] is not None for k in range(most)]
        for view in (0, 1):
            weights = found.weights[view][i]
            for k in range(most):
                expected = torch.zeros_like(weights[:, k])
                if found.valid[i, k]:
                    expected = torch.tensor(clusters[k][view], dtype=weights.dtype)
                torch.testing.assert_close(weights[:, k], expected, atol=1e-5, rtol=1e-4)


VARIANTS = {
    "code": CODE,
    "paper": PAPER,
    "fewer": dataclasses.replace(CODE, most=3),
    "no position": dataclasses.replace(CODE, lambda_pos=0.0),
    "blunt": dataclasses.replace(CODE, sharpness=5.0, iterations=2, score_temp=0.5),
    "uniform": dataclasses.replace(CODE, uniform=True),
    "cosine": dataclasses.replace(CODE, merge="cosine"),
    "follow tokens": dataclasses.replace(CODE, scores_are_shares=True, follow="tokens"),
    "semantic": dataclasses.replace(CODE, quality="semantic"),
    "rows": dataclasses.replace(CODE, assign="row"),
    "attention": dataclasses.replace(CODE, scores_are_shares=True),
    "paper, fewer": dataclasses.replace(PAPER, most=4),
}


@pytest.mark.parametrize("rules", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("group", [0, 1, 2])
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
    rows = merging._shares(scores, Rules())
    assert rows[0].tolist() == pytest.approx([0.450627, 0.302064, 0.247309], abs=1e-6)
    sampled = torch.eye(3)[None][:, :, [0, 2]]
    assert merging._marginal(sampled, rows, Rules())[0].tolist() == pytest.approx([0.645656, 0.354344], abs=1e-6)
    assert merging._shares(scores, Rules(uniform=True))[0].tolist() == pytest.approx([1 / 3] * 3)


def test_marginals_of_the_paper_by_hand():
    rows = merging._shares(torch.tensor([[0.6, 0.1, 0.3]]), PAPER)  # attention to the patches, perhaps not all of it
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.1, 0.3]]))
    torch.testing.assert_close(merging._shares(torch.tensor([[0.3, 0.05, 0.15]]), PAPER), rows)
    averaged = torch.tensor([[[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]])
    expected = torch.tensor([[math.exp(0.35), math.exp(0.3)]]) / (math.exp(0.35) + math.exp(0.3))
    torch.testing.assert_close(merging._marginal(averaged, rows, PAPER), expected)


def test_the_marginal_of_a_merged_cluster_is_its_mean_weight():
    rows = torch.tensor([[0.5, 0.3, 0.2]])
    plan = torch.tensor([[[0.2, 0.0], [0.2, 0.0], [0.0, 0.1]]])  # means .4 and .2, whatever the masses
    assert merging._marginal(plan, rows, Rules())[0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_merge_by_hand():
    centroids = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]])
    pair = merging._closest(centroids, "dot")
    assert pair.tolist() == [[0, 2]]
    columns = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    assert merging._merge(columns, pair, 1.0).tolist() == [[[2, 4], [5, 10]]]  # the sum comes last
    assert merging._merge(columns, pair, 0.5).tolist() == [[[2, 2], [5, 5]]]


def test_merging_keeps_mass_and_the_order_of_the_others():
    columns = torch.rand(2, 7, 5, generator=torch.Generator().manual_seed(0))
    merged = merging._merge(columns, torch.tensor([[1, 3], [0, 4]]), 1.0)
    torch.testing.assert_close(merged.sum(2), columns.sum(2))
    assert torch.equal(merged[0, :, :3], columns[0][:, [0, 2, 4]])
    assert torch.equal(merged[1, :, :3], columns[1][:, [1, 2, 3]])


def test_closest_by_length_or_by_direction():
    centroids = torch.tensor([[[3.0, 0.0], [2.0, 2.0], [0.1, 0.1], [0.0, 1.0]]])
    assert merging._closest(centroids, "dot").tolist() == [[0, 1]]
    assert merging._closest(centroids, "cosine").tolist() == [[1, 2]]


def test_the_first_pair_wins_a_tie():
    centroids = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    assert merging._closest(centroids, "dot").tolist() == [[0, 2]]
    assert merging._closest(torch.eye(3)[None], "dot").tolist() == [[0, 1]]


def test_a_centroid_is_never_merged_with_itself():
    centroids = torch.tensor([[[0.7, 0.0], [-0.7, 0.0], [0.0, 0.7]], [[0.9, 0.1], [-0.9, 0.1], [0.1, -0.9]]])
    pairs = merging._closest(centroids, "dot")
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert pairs.tolist() == [[0, 2], [0, 2]]


def test_sampling_follows_the_shares_without_replacement():
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    count = 40000
    noise = torch.rand(count, 4, generator=torch.Generator().manual_seed(0))
    drawn = merging._sample(shares.expand(count, 4), noise, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    for i in range(4):
        for j in range(4):
            expected = 0.0 if i == j else shares[i].item() * shares[j].item() / (1 - shares[i].item())
            assert ((drawn[:, 0] == i) & (drawn[:, 1] == j)).float().mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("value", [0.0, 1 - 2**-24])
def test_sampling_survives_extreme_noise(value):
    drawn = merging._sample(torch.full((3, 6), 1 / 6), torch.full((3, 6), value), 4)
    assert all(len(set(row)) == 4 for row in drawn.tolist())


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
