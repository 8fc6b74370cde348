"""Labels of patches, the order in which a bounded memory takes them, and standardised features."""

from __future__ import annotations

import itertools

import pytest
import torch

from densebench.numerics import patch_labels
from densebench.numerics.moments import mean_and_variance, standard_scores
from densebench.numerics.patch_labels import Labelling

LABEL = torch.tensor(
    [
        [0, 0, 1, 255],
        [0, 1, 255, 255],
        [2, 2, 255, 255],
        [2, 2, 255, 255],
    ],
    dtype=torch.uint8,
)


def test_patch_counts_by_hand():
    counts = patch_labels.patch_counts(LABEL, 2, 3)
    assert counts.tolist() == [[3, 1, 0], [0, 1, 0], [0, 0, 4], [0, 0, 0]]


def test_patch_counts_equal_a_loop_on_a_grid_that_is_not_square():
    label = torch.randint(0, 6, (6, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    counts = patch_labels.patch_counts(label, 3, 5)
    for i, j in itertools.product(range(2), range(4)):
        patch = label[3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
        assert counts[4 * i + j].tolist() == [int((patch == c).sum()) for c in range(5)]


def test_soft_and_majority_labels_by_hand():
    counts = patch_labels.patch_counts(LABEL, 2, 3)
    assert patch_labels.soft_labels(counts).tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert patch_labels.majority_labels(counts).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_majority_tie_goes_to_the_lowest_class():
    assert patch_labels.majority_labels(torch.tensor([[0, 2, 2]])).tolist() == [[0, 1, 0]]


def test_patch_pixels_keep_rows_together():
    assert patch_labels.patch_pixels(LABEL, 2).tolist() == [[0, 0, 0, 1], [1, 255, 255, 255], [2, 2, 2, 2], [255] * 4]


def test_rarity_order_by_hand():
    # patches: {0}, {0}, {0}, {0, 1}; class 0 is in 4 patches, class 1 in 1: scores 4, 4, 4, 5 times the uniform numbers
    counts = torch.tensor([[4, 0], [4, 0], [4, 0], [3, 1]])
    assert patch_labels.rarity_order(counts, torch.tensor([0.9, 0.5, 0.7, 0.1])).tolist() == [3, 1, 2, 0]
    assert patch_labels.rarity_order(counts, torch.tensor([0.9, 0.5, 0.7, 0.59])).tolist() == [1, 2, 3, 0]


def test_rarity_order_leaves_void_patches_out():
    assert patch_labels.rarity_order(torch.tensor([[0, 0], [1, 0]]), torch.tensor([0.1, 0.9])).tolist() == [1]


def test_rare_classes_are_taken_more_often_than_their_share():
    counts = torch.zeros(100, 2, dtype=torch.int64)
    counts[:90, 0], counts[90:, 1] = 4, 4
    generator = torch.Generator().manual_seed(0)
    taken = torch.stack([patch_labels.rarity_order(counts, torch.rand(100, generator=generator))[:20] for _ in range(50)])
    assert (taken >= 90).float().mean() > 0.4  # 10 % of the patches


def test_a_patch_carries_a_label_where_a_pixel_is_counted_or_most_are():
    patches, labels = Labelling(2, 3, "soft").label(LABEL, None, None)
    assert patches.tolist() == [0, 1, 2]
    assert torch.equal(labels, patch_labels.soft_labels(patch_labels.patch_counts(LABEL, 2, 3))[:3])
    patches, labels = Labelling(2, 3, "pixels").label(LABEL, None, None)
    assert patches.tolist() == [0, 2]  # most of patch 1 is void
    assert labels.tolist() == [[0, 0, 0, 1], [2, 2, 2, 2]]


def test_a_limit_takes_the_first_in_the_order_of_rarity():
    uniform = torch.tensor([0.9, 0.5, 0.7, 0.1])
    patches, labels = Labelling(2, 3, "majority").label(LABEL, 2, uniform)
    order = patch_labels.rarity_order(patch_labels.patch_counts(LABEL, 2, 3), uniform)
    assert patches.tolist() == order[:2].tolist() == [2, 1]
    assert labels.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_patches_that_are_mostly_void_take_no_room_of_a_limit():
    uniform = torch.tensor([0.5, 0.1, 0.9, 0.7])  # patch 1, of which most is void, comes first
    assert patch_labels.rarity_order(patch_labels.patch_counts(LABEL, 2, 3), uniform).tolist() == [1, 2, 0]
    assert Labelling(2, 3, "pixels").label(LABEL, 1, uniform)[0].tolist() == [2]


def test_moments_of_parts_are_those_of_all_rows():
    rows = 50 + torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    mean, variance = mean_and_variance(rows.split([3, 1, 16]))
    torch.testing.assert_close(mean, rows.double().mean(0))
    torch.testing.assert_close(variance, rows.double().var(0, correction=0))


def test_standard_scores_by_hand_and_for_a_constant_feature():
    rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert standard_scores(rows, rows.mean(0), rows.std(0, correction=0)).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(Exception, match="counts"):
        patch_labels.soft_labels(torch.zeros(3))
