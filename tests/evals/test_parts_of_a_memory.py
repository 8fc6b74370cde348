"""A memory in parts: which views each part holds, and how what the parts find becomes what the whole gives."""

from __future__ import annotations

import pytest
import torch

from densebench.evals.incontext import shards
from densebench.evals.incontext.memory import layout
from densebench.numerics.search import Search, merged_top


def test_lists_are_merged_and_the_first_row_wins_a_tie():
    values = torch.tensor([[0.5, 0.9, 0.2, 0.9, 0.5, 0.5]])
    rows = torch.tensor([[7, 5, 0, 3, 1, 9]])
    score, index = merged_top(values, rows, 4)
    assert score.tolist() == [[pytest.approx(0.9), pytest.approx(0.9), 0.5, 0.5]]
    assert index.tolist() == [[3, 5, 1, 7]]


def test_places_without_a_row_lose_against_every_row():
    score, index = merged_top(torch.tensor([[-torch.inf, -3.0, -torch.inf, -8.0]]), torch.tensor([[0, 4, 0, 2]]), 2)
    assert (score.tolist(), index.tolist()) == ([[-3.0, -8.0]], [[4, 2]])


def test_merging_equals_sorting_pairs():
    drawn = torch.Generator().manual_seed(0)
    values = torch.randint(0, 5, (2, 30, 24), generator=drawn).float()  # many ties
    rows = torch.stack([torch.randperm(100, generator=drawn)[:24] for _ in range(60)]).view(2, 30, 24)
    score, index = merged_top(values, rows, 7)
    for s in range(2):
        for q in range(30):
            pairs = sorted(zip((-values[s, q]).tolist(), rows[s, q].tolist(), strict=True))[:7]
            assert [(-v, r) for v, r in zip(score[s, q].tolist(), index[s, q].tolist(), strict=True)] == [
                (v, r) for v, r in pairs
            ]


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_view_belongs_to_one_part_in_order(parts):
    rows = torch.tensor([5, 0, 9, 1, 1, 4])
    views = list(range(6))
    assert [view for number in range(parts) for view in views[shards.share_of_views(rows, number, parts)]] == views


def test_parts_hold_equal_shares():
    rows = torch.full((12,), 4)
    assert [shards.share_of_views(rows, number, 3) for number in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]


@pytest.fixture
def whole():
    """A memory of small whole numbers, whose products are exact in any order and often tie, and a layout with small subsets."""
    drawn = torch.Generator().manual_seed(1)
    rows = torch.tensor([6, 0, 9, 12, 5, 8])
    held = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 1]], dtype=torch.bool)
    memory = torch.randint(-2, 3, (40, 4), generator=drawn).float()
    return memory, layout(rows, held, [None, 7, 4]), torch.randint(-2, 3, (25, 4), generator=drawn).float()


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_parts_merged_equal_the_search_of_the_whole(whole, parts, metric, k=6):
    memory, all_rows, queries = whole
    kept = memory[: int(all_rows.rows.sum())]
    expected = Search(kept, all_rows.segments, all_rows.members, metric=metric).search(queries, k)
    found = []
    for number in range(parts):
        views = shards.share_of_views(all_rows.rows, number, parts)
        first = int(all_rows.rows[: views.start].sum())
        part = all_rows.part(views)
        search = shards.PartSearch(kept[first : first + int(part.rows.sum())], part, metric)
        one = search.search(queries, k)
        found.append((one.score, one.index + first))
    score, index = merged_top(*(torch.cat(lists, -1) for lists in zip(*found, strict=True)), k)
    assert torch.equal(score, expected.score) and torch.equal(index, expected.index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_labels_of_neighbours_are_put_together_from_all_parts(dtype):
    """Without other processes the sum is what this one holds, so the parts' answers are added here."""
    labels = torch.randint(0, 9, (10, 3)).to(dtype)
    index = torch.tensor([[0, 9, 4], [3, 3, 7]])
    parts = [shards.labels_at(None, index, labels[start:end], start) for start, end in ((0, 4), (4, 4), (4, 10))]
    assert torch.equal(torch.stack(parts).sum(0).to(dtype), labels[index.flatten()])
