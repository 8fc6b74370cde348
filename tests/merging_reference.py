"""The merging of CrOC in loops, for the tests to compare with."""

from __future__ import annotations

import dataclasses
import math

import torch

from densebench.pretrain.croc import merging
from densebench.pretrain.croc.merging import Rules

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
    shares = merging.patch_marginal(scores, rules)
    start = merging.sample(shares, noise, rules.start).tolist()
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
