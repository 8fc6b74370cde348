"""Which rows of the memory each subset holds, and how features are scaled before they are compared."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.evals.incontext.memory import Scaling, layout, row_limits, view_limits

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
    rows_of = layout(torch.tensor(available), held, limits)
    assert int(rows_of.segments.sum()) == int(rows_of.rows.sum())
    rows = [(unit, row) for unit, rows in enumerate(rows_of.rows.tolist()) for row in range(rows)]
    blocks = [b for b, size in enumerate(rows_of.segments.tolist()) for _ in range(size)]
    for s, limit in enumerate(limits):
        held_rows = [row for row, block in zip(rows, blocks, strict=True) if rows_of.members[s, block]]
        expected = [
            (unit, row)
            for unit, count in enumerate(available)
            if held[s, unit]
            for row in range(count if limit is None else min(count, limit))
        ]
        assert held_rows == expected


def test_layout_shares_rows_between_limits():
    rows_of = layout(torch.tensor([10]), torch.tensor([[True], [True]]), [4, None])
    assert rows_of.segments.tolist() == [4, 6]
    assert rows_of.members.tolist() == [[True, False], [True, True]]


def test_a_view_gives_as_many_rows_as_the_subset_that_takes_most_of_it():
    subsets = torch.tensor([[True, False, True], [True, True, False]])
    limits = row_limits(subsets, 10)
    assert limits == [5, 5]
    assert row_limits(torch.tensor([[True, False, False], [True, True, True]]), 10) == [10, 3]
    assert view_limits(subsets, [7, 3]) == [7, 3, 7]
    assert view_limits(subsets, [None, 3]) == [None, 3, None]


def test_rows_of_length_one_along_the_channels_or_the_patches():
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    channels, patches = (Scaling("cosine", norm) for norm in ("channels", "patches"))
    torch.testing.assert_close(channels.rows(features).norm(dim=1), torch.ones(6))
    torch.testing.assert_close(patches.rows(features).norm(dim=0), torch.ones(3))
    torch.testing.assert_close(patches.queries(features).norm(dim=1), torch.ones(6))
    assert torch.equal(Scaling("l2", "channels").rows(features), features)


def test_memory_and_queries_are_standardised_alike():
    features = torch.tensor([[1.0, 5.0], [3.0, 9.0]])
    scaling = Scaling("l2", "channels", (torch.tensor([2.0, 7.0]), torch.tensor([1.0, 2.0])))
    assert scaling.rows(features).tolist() == scaling.queries(features).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
