"""Matchings of clusters to classes: brute force and plain loops over exact fractions, hand-made matrices, invariances.

Kuhn, The Hungarian method for the assignment problem, 1955.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch

from densebench.numerics.segmentation import hungarian, many_to_one, merged

MATCHINGS = {
    "one to one": hungarian,
    "precision": lambda confusion: many_to_one(confusion, by="precision"),
    "iou": lambda confusion: many_to_one(confusion, by="iou"),
}
SHAPES = [(1, 1), (3, 3), (4, 4), (3, 5), (2, 6), (5, 3), (6, 2), (1, 4), (4, 1)]


def counts(classes, clusters, seed=0, high=30, holes=0.3):
    """Small counts, with zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, high, (classes, clusters), generator=generator)
    return drawn * (torch.rand(classes, clusters, generator=generator) > holes)


def iou(confusion, row, column):
    """Exact IoU of a class and a cluster; nought where neither has a pixel."""
    table = confusion.tolist()
    both = table[row][column]
    union = sum(table[row]) + sum(line[column] for line in table) - both
    return Fraction(both, union) if union else Fraction(0)


def best_sum(confusion):
    classes, clusters = confusion.shape
    table = [[iou(confusion, row, column) for column in range(clusters)] for row in range(classes)]
    if classes >= clusters:
        pairs = ([(row, column) for column, row in enumerate(rows)] for rows in itertools.permutations(range(classes), clusters))
    else:
        pairs = ([(row, column) for row, column in enumerate(some)] for some in itertools.permutations(range(clusters), classes))
    return max(sum((table[row][column] for row, column in each), Fraction(0)) for each in pairs)


def class_ious(square):
    return [iou(square, each, each) for each in range(len(square))]


# --- one to one


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("classes", "clusters"), SHAPES)
def test_hungarian_matching_has_the_greatest_sum_of_iou(classes, clusters, seed):
    confusion = counts(classes, clusters, seed)
    if seed % 3 == 1:
        confusion[seed % classes] = 0  # an absent class
    if seed % 3 == 2:
        confusion[:, seed % clusters] = 0  # an empty cluster
    matching = hungarian(confusion).tolist()
    assert len(matching) == clusters
    taken = [(row, column) for column, row in enumerate(matching) if row != -1]
    assert len(taken) == min(classes, clusters) == len({row for row, _ in taken})
    assert all(0 <= row < classes for row, _ in taken)
    got = sum((iou(confusion, row, column) for row, column in taken), Fraction(0))
    assert float(got) == pytest.approx(float(best_sum(confusion)), rel=1e-9)


def test_neither_pixels_nor_greed_nor_dice_decide_but_the_sum_of_iou():
    confusion = torch.tensor([[100, 60, 0], [55, 16, 0], [0, 0, 3]])
    sums = [iou(confusion, 0, 0) + iou(confusion, 1, 1), iou(confusion, 0, 1) + iou(confusion, 1, 0)]
    assert confusion[0, 0] + confusion[1, 1] > confusion[0, 1] + confusion[1, 0] and sums[0] < sums[1]
    assert hungarian(confusion).tolist() == [1, 0, 2]
    confusion = torch.tensor([[20, 14], [14, 0]])
    assert iou(confusion, 0, 0) == Fraction(20, 48) and iou(confusion, 0, 1) == iou(confusion, 1, 0) == Fraction(14, 34)
    assert hungarian(confusion).tolist() == [1, 0]  # the best pair alone would leave nothing to the other two
    confusion = torch.tensor([[0, 7], [9, 23]])  # Dice: 46/62 on the diagonal, 14/37 + 18/41 off it
    assert iou(confusion, 1, 1) > iou(confusion, 0, 1) + iou(confusion, 1, 0)
    assert hungarian(confusion).tolist() == [0, 1]


def test_the_axes_are_class_then_cluster():
    confusion = torch.tensor([[0, 9, 0, 0], [0, 0, 0, 8], [7, 0, 1, 0]])
    assert hungarian(confusion).tolist() == [2, 0, -1, 1]
    assert many_to_one(confusion).tolist() == [2, 0, 2, 1]
    assert many_to_one(confusion, by="iou").tolist() == [2, 0, 2, 1]


def test_more_classes_than_clusters_leave_classes_out():
    confusion = torch.tensor([[5, 0], [0, 1], [1, 90], [0, 0]])
    assert hungarian(confusion).tolist() == [0, 2]
    assert merged(confusion, hungarian(confusion)).tolist() == [[5, 0, 0, 0], [0, 0, 1, 0], [1, 0, 90, 0], [0, 0, 0, 0]]


# --- many to one


@pytest.mark.parametrize("by", ["precision", "iou"])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("classes", "clusters"), [*SHAPES, (7, 40)])
def test_every_cluster_takes_its_best_class_and_of_equals_the_first(classes, clusters, seed, by):
    confusion = counts(classes, clusters, seed, high=4 if seed % 2 else 50)  # few values: many ties
    found = many_to_one(confusion, by=by)
    for column in range(clusters):
        scores = [iou(confusion, row, column) if by == "iou" else confusion[row, column].item() for row in range(classes)]
        assert found[column] == scores.index(max(scores)), (column, scores)


def test_precision_is_the_default_and_differs_from_iou():
    confusion = torch.tensor([[900, 60], [0, 50]])  # of 110 pixels 60 are of a class that is 16 times as large
    assert many_to_one(confusion).tolist() == many_to_one(confusion, by="precision").tolist() == [0, 0]
    assert many_to_one(confusion, by="iou").tolist() == [0, 1]


@pytest.mark.parametrize("size", [2**24, 10**12, 2**60])
def test_large_counts_are_compared_exactly(size):
    confusion = torch.tensor([[size, size + 1, size], [size + 1, size, size]])
    assert many_to_one(confusion).tolist() == [1, 0, 0]


# --- merging


@pytest.mark.parametrize("unmatched", [0, 2])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("clusters", [2, 4, 9])
def test_merged_counts_are_those_of_a_loop(clusters, seed, unmatched):
    confusion = counts(4, clusters, seed)
    matching = torch.randint(-1, 4, (clusters,), generator=torch.Generator().manual_seed(seed))
    expected = [[0] * 4 for _ in range(4)]
    for row, column in itertools.product(range(4), range(clusters)):
        name = matching[column].item() if matching[column] != -1 else unmatched
        expected[row][name] += confusion[row, column].item()
    found = merged(confusion, matching, unmatched)
    assert found.dtype == torch.int64 and found.tolist() == expected


def test_unmatched_clusters_are_called_the_first_class_unless_told():
    confusion = torch.tensor([[1, 2, 3], [10, 20, 30]])
    assert merged(confusion, torch.tensor([1, -1, 0])).tolist() == [[5, 1], [50, 10]]
    assert merged(confusion, torch.tensor([1, -1, 0]), unmatched=1).tolist() == [[3, 3], [30, 30]]
    assert merged(confusion, torch.tensor([-1, -1, -1]), 1).tolist() == [[0, 6], [0, 60]]


def test_merging_is_exact_for_large_counts_and_changes_no_argument():
    confusion = torch.tensor([[2**60 + 1, 1, 2**60], [10**12 + 1, 10**12, 3]])
    copy, matching = confusion.clone(), torch.tensor([0, -1, 0])
    assert merged(confusion, matching, 1).tolist() == [[2**61 + 1, 1], [10**12 + 4, 10**12]]
    for match in MATCHINGS.values():
        match(confusion)
    assert torch.equal(confusion, copy) and matching.tolist() == [0, -1, 0]


@pytest.mark.parametrize("name", MATCHINGS)
@pytest.mark.parametrize(("classes", "clusters"), [(5, 5), (4, 11), (6, 3)])
def test_the_names_of_clusters_do_not_matter_and_no_pixel_is_lost(name, classes, clusters):
    confusion = counts(classes, clusters, seed=1, high=10**9, holes=0.0)
    order = torch.randperm(clusters, generator=torch.Generator().manual_seed(3))
    matching, renamed = MATCHINGS[name](confusion), MATCHINGS[name](confusion[:, order])
    assert torch.equal(renamed, matching[order])
    one = merged(confusion, matching)
    assert torch.equal(one, merged(confusion[:, order], renamed))
    assert torch.equal(one.sum(1), confusion.sum(1))


@pytest.mark.parametrize("name", MATCHINGS)
def test_the_names_of_classes_do_not_matter(name):
    confusion = counts(5, 7, seed=2, high=10**9, holes=0.0)
    order = torch.tensor([2, 0, 4, 1, 3])
    one, other = MATCHINGS[name](confusion), MATCHINGS[name](confusion[order])
    assert [order[each].item() if each >= 0 else -1 for each in other.tolist()] == one.tolist()


@pytest.mark.parametrize("name", MATCHINGS)
def test_a_perfect_clustering_gives_a_diagonal(name):
    sizes, clusters_of = torch.tensor([7, 40, 1, 900]), torch.tensor([2, 0, 3, 1])
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    confusion[torch.arange(4), clusters_of] = sizes
    assert MATCHINGS[name](confusion)[clusters_of].tolist() == [0, 1, 2, 3]
    assert torch.equal(merged(confusion, MATCHINGS[name](confusion)), sizes.diag())


@pytest.mark.parametrize("by", ["precision", "iou"])
def test_pure_clusters_of_one_class_are_joined(by):
    confusion = torch.tensor([[5, 0, 3, 0, 0], [0, 0, 0, 8, 0], [0, 2, 0, 0, 6]])
    assert many_to_one(confusion, by=by).tolist() == [0, 2, 0, 1, 2]
    assert merged(confusion, many_to_one(confusion, by=by)).tolist() == [[8, 0, 0], [0, 8, 0], [0, 0, 8]]
    alone = merged(confusion, hungarian(confusion), unmatched=1)
    assert alone.tolist() == [[5, 3, 0], [0, 8, 0], [0, 2, 6]]


@pytest.mark.parametrize("name", MATCHINGS)
@pytest.mark.parametrize("clusters", [1, 4])
def test_a_constant_clustering_gets_the_share_of_the_largest_class(name, clusters):
    confusion = torch.zeros(4, clusters, dtype=torch.int64)
    confusion[:, clusters - 1] = torch.tensor([10, 25, 60, 5])
    square = merged(confusion, MATCHINGS[name](confusion))
    assert square[:, 2].tolist() == [10, 25, 60, 5] and square.sum() == 100
    assert class_ious(square) == [0, 0, Fraction(60, 100), 0]


@pytest.mark.parametrize("name", MATCHINGS)
def test_nothing_counted_is_no_error(name):
    assert merged(torch.zeros(3, 5, dtype=torch.int64), MATCHINGS[name](torch.zeros(3, 5, dtype=torch.int64))).sum() == 0


@pytest.mark.parametrize("name", MATCHINGS)
def test_five_hundred_clusters_of_171_classes(name):
    confusion = counts(171, 500, high=10**6)
    matching = MATCHINGS[name](confusion)
    assert matching.shape == (500,) and matching.dtype == torch.int64
    assert (matching == -1).sum() == (500 - 171 if name == "one to one" else 0)
    assert torch.equal(merged(confusion, matching).sum(1), confusion.sum(1))
