"""PCK averaged in each way: by hand, by plain loops, and its bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from densebench.numerics.bootstrap import bootstrap_mean, bootstrap_sums
from densebench.numerics.keypoints import AVERAGES, averaged, bootstrap_pck, tallied


def table(hits, points, classes, count=2):
    return tallied(torch.tensor(hits, dtype=torch.float64), torch.tensor(points), torch.tensor(classes), count)


def test_per_point_and_per_image_differ():
    """Two of 2 and two of 8 right."""
    sums = table([2, 2], [2, 8], [0, 0]).sum(0)
    assert float(averaged(sums, "point")) == pytest.approx(0.40) and float(averaged(sums, "image")) == pytest.approx(0.625)


def test_classes_by_hand():
    sums = table([1, 2, 0], [1, 4, 2], [0, 1, 1]).sum(0)
    found = {average: float(averaged(sums, average)) for average in AVERAGES}
    expected = {"point": 3 / 7, "image": 0.5, "point-class": (1 + 1 / 3) / 2, "image-class": (1 + 0.25) / 2,
                "point-weighted": (1 * 1 + 2 * 1 / 3) / 3}  # fmt: skip
    assert found == pytest.approx(expected)


def test_a_class_without_pairs_does_not_count():
    few, many = (table([1, 1], [2, 4], [0, 1], count).sum(0) for count in (2, 5))
    for average in AVERAGES:
        assert float(averaged(few, average)) == float(averaged(many, average))


def loops(hits, points, classes, average):
    per_pair = [h / p for h, p in zip(hits, points, strict=True)]
    kinds = sorted(set(classes))
    members = {c: [i for i, each in enumerate(classes) if each == c] for c in kinds}
    of_points = {c: sum(hits[i] for i in m) / sum(points[i] for i in m) for c, m in members.items()}
    of_pairs = {c: sum(per_pair[i] for i in m) / len(m) for c, m in members.items()}
    return {
        "point": sum(hits) / sum(points),
        "image": sum(per_pair) / len(per_pair),
        "point-class": sum(of_points.values()) / len(kinds),
        "image-class": sum(of_pairs.values()) / len(kinds),
        "point-weighted": sum(len(members[c]) * of_points[c] for c in kinds) / len(hits),
    }[average]


def random_pairs(count=30, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.integers(1, 12, count)
    return rng.integers(0, points + 1).tolist(), points.tolist(), rng.integers(0, 4, count).tolist()


@pytest.mark.parametrize("average", AVERAGES)
def test_averages_are_plain_loops(average):
    hits, points, classes = random_pairs()
    assert float(averaged(table(hits, points, classes, 4).sum(0), average)) == pytest.approx(
        loops(hits, points, classes, average)
    )


@pytest.mark.parametrize("average", AVERAGES)
def test_the_bootstrap_is_the_average_of_drawn_pairs(average):
    hits, points, classes = random_pairs(8)
    found = bootstrap_pck(table(hits, points, classes, 4), resamples=20)[average]
    times = np.random.Generator(np.random.PCG64(0)).multinomial(8, np.full(8, 1 / 8), size=20)
    for value, row in zip(found, times, strict=True):
        drawn = [i for i, n in enumerate(row) for _ in range(n)]
        columns = [[column[i] for i in drawn] for column in (hits, points, classes)]
        assert float(value) == pytest.approx(loops(*columns, average))


def test_draws_are_those_of_other_means():
    hits, points, classes = random_pairs()
    shares = torch.tensor(hits, dtype=torch.float64) / torch.tensor(points)
    assert bootstrap_pck(table(hits, points, classes, 4))["image"] == pytest.approx(bootstrap_mean(shares))


def test_the_order_of_pairs_within_a_table_does_not_change_averages():
    rows = table(*random_pairs(), 4)
    for average in AVERAGES:
        assert float(averaged(rows.sum(0), average)) == pytest.approx(float(averaged(rows.flip(0).sum(0), average)))


def test_sums_of_one_row_are_that_row():
    assert torch.equal(bootstrap_sums(torch.tensor([[2.0, 3.0]]), resamples=4), torch.tensor([[2.0, 3.0]] * 4).double())
