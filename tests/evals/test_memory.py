"""The memory bank: patch labels, rarity sampling and the layout that subsets share."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.evaluation import memory

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
    counts = memory.patch_counts(LABEL, 2, 3)
    assert counts.tolist() == [[3, 1, 0], [0, 1, 0], [0, 0, 4], [0, 0, 0]]


def test_patch_counts_equal_a_loop_on_a_grid_that_is_not_square():
    label = torch.randint(0, 6, (6, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    counts = memory.patch_counts(label, 3, 5)
    for i, j in itertools.product(range(2), range(4)):
        patch = label[3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
        assert counts[4 * i + j].tolist() == [int((patch == c).sum()) for c in range(5)]


def test_soft_and_majority_labels_by_hand():
    counts = memory.patch_counts(LABEL, 2, 3)
    assert memory.soft_labels(counts).tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert memory.majority_labels(counts).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_majority_tie_goes_to_the_lowest_class():
    assert memory.majority_labels(torch.tensor([[0, 2, 2]])).tolist() == [[0, 1, 0]]


def test_patch_pixels_keep_rows_together():
    assert memory.patch_pixels(LABEL, 2).tolist() == [[0, 0, 0, 1], [1, 255, 255, 255], [2, 2, 2, 2], [255] * 4]


def test_rarity_order_by_hand():
    # patches: {0}, {0}, {0}, {0, 1}; class 0 is in 4 patches, class 1 in 1: scores 4, 4, 4, 5 times the uniform numbers
    counts = torch.tensor([[4, 0], [4, 0], [4, 0], [3, 1]])
    assert memory.rarity_order(counts, torch.tensor([0.9, 0.5, 0.7, 0.1])).tolist() == [3, 1, 2, 0]
    assert memory.rarity_order(counts, torch.tensor([0.9, 0.5, 0.7, 0.59])).tolist() == [1, 2, 3, 0]


def test_rarity_order_leaves_void_patches_out():
    assert memory.rarity_order(torch.tensor([[0, 0], [1, 0]]), torch.tensor([0.1, 0.9])).tolist() == [1]


def test_rare_classes_are_taken_more_often_than_their_share():
    counts = torch.zeros(100, 2, dtype=torch.int64)
    counts[:90, 0], counts[90:, 1] = 4, 4
    generator = torch.Generator().manual_seed(0)
    taken = torch.stack([memory.rarity_order(counts, torch.rand(100, generator=generator))[:20] for _ in range(50)])
    assert (taken >= 90).float().mean() > 0.4  # 10 % of the patches


cases = st.tuples(
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
    st.lists(st.tuples(st.lists(st.booleans(), min_size=5, max_size=5), st.none() | st.integers(1, 7)), min_size=1, max_size=4),
)


@settings(deadline=None, max_examples=60)
@given(cases)
def test_layout_gives_every_subset_the_first_rows_of_its_units_and_nothing_else(case):
    available, subsets = case
    held = torch.tensor([flags[: len(available)] for flags, _ in subsets])
    limits = [limit for _, limit in subsets]
    found = memory.layout(torch.tensor(available), held, limits)
    assert int(found.segments.sum()) == int(found.rows.sum())
    places = [(unit, row) for unit, rows in enumerate(found.rows.tolist()) for row in range(rows)]
    blocks = [b for b, size in enumerate(found.segments.tolist()) for _ in range(size)]
    for s, limit in enumerate(limits):
        seen = [place for place, block in zip(places, blocks, strict=True) if found.members[s, block]]
        expected = [
            (unit, row)
            for unit, count in enumerate(available)
            if held[s, unit]
            for row in range(count if limit is None else min(count, limit))
        ]
        assert seen == expected


def test_layout_shares_rows_between_limits():
    found = memory.layout(torch.tensor([10]), torch.tensor([[True], [True]]), [4, None])
    assert found.segments.tolist() == [4, 6]
    assert found.members.tolist() == [[True, False], [True, True]]


def test_standard_scores_by_hand_and_for_a_constant_feature():
    rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    scored = memory.standard_scores(rows, (rows.mean(0), rows.std(0, correction=0)))
    assert scored.tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(Exception, match="counts"):
        memory.soft_labels(torch.zeros(3))
