"""Exact search against a naive restatement, ties, subsets, tiles; the other engines."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from densebench.errors import UserError
from densebench.numerics.search import Search, engines, nearest, neighbours, recall, tiles, top


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(*shape, seed=0, high=3):
    """Small integers, so that products are exact and ties are many."""
    return torch.randint(-high + 1, high, shape, generator=torch.Generator().manual_seed(seed)).float()


def naive(queries, memory, k, metric="dot", held=None):
    """The whole matrix, sorted stably: best first, the first row wins a tie."""
    scores = queries.double() @ memory.double().T
    if metric == "l2":
        scores = -(queries.double()[:, None] - memory.double()[None]).square().sum(2)
    if held is not None:
        scores = scores.masked_fill(~held, -torch.inf)
    value, order = scores.sort(dim=1, descending=True, stable=True)
    return value[:, :k].float(), order[:, :k]


def test_by_hand():
    memory = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    found = nearest(torch.tensor([[1.0, 0.0]]), memory, 2)
    assert found.index.tolist() == [[0, 2]]
    assert found.score[0].tolist() == pytest.approx([1.0, 0.6])
    far = nearest(torch.tensor([[2.0, 0.0]]), memory, 3, metric="l2")
    assert far.index.tolist() == [[0, 2, 1]]
    assert far.score[0].tolist() == pytest.approx([-1.0, -2.6, -5.0], abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=12), st.integers(1, 9), st.sampled_from(["dot", "l2"]), st.integers(0, 999),
    st.booleans(),
)  # fmt: skip
def test_every_subset_equals_the_naive_restatement(lengths, queries, metric, seed, tied):
    segments = torch.tensor(lengths)
    members = torch.rand(4, len(lengths), generator=torch.Generator().manual_seed(seed)) < 0.5
    members[0] = True
    members[range(4), torch.arange(4) % len(lengths)] = True
    make = integers if tied else random
    memory, asked = make(int(segments.sum()), 5, seed=seed), make(queries, 5, seed=seed + 1)
    held = torch.repeat_interleave(members, segments, dim=1)
    k = int(held.sum(1).min())
    found = Search(memory, segments, members, metric=metric).search(asked, k)
    for s in range(4):
        value, index = naive(asked, memory, k, metric, held[s])
        torch.testing.assert_close(found.score[s], value, atol=1e-4, rtol=1e-4)
        if tied:
            assert torch.equal(found.index[s], index)
        else:
            assert held[s][found.index[s]].all()
            assert (found.index[s].sort(1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("group", "tile", "chunk"), [(1, 9, 7), (8, 1, 1000), (8, 160, 1), (50, 130, 7), (50, 10_000, 20), (64, 1, 1000)]
)
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_groups_tiles_and_chunks_change_nothing(monkeypatch, group, tile, chunk, metric):
    monkeypatch.setattr(tiles, "GROUPS", [group])
    monkeypatch.setattr(tiles, "TILE", tile)
    monkeypatch.setattr(tiles, "QUERIES", {"cpu": chunk})
    memory, queries = integers(333, 4), integers(20, 4, seed=5)
    segments, members = torch.tensor([100, 3, 130, 100]), torch.tensor([[True] * 4, [False, True, False, True]])
    found = Search(memory, segments, members, metric=metric).search(queries, 40)
    for s in range(2):
        held = torch.repeat_interleave(members[s], segments)
        assert torch.equal(found.index[s], naive(queries, memory, 40, metric, held)[1])


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_k_nearest_may_lie_in_k_groups(k):
    memory = torch.zeros(5 * 64, 1)  # groups of 64 rows
    rows = [5, 70, 140, 200, 300]
    memory[rows, 0] = torch.tensor([3.0, 5.0, 1.0, 4.0, 2.0])
    assert nearest(torch.ones(1, 1), memory, k).index.tolist() == [[70, 200, 5, 300, 140][:k]]


class Largest(TorchDispatchMode):
    """The most values that any result holds."""

    values = 0

    def __torch_dispatch__(self, operation, types, arguments=(), more=None):
        result = operation(*arguments, **(more or {}))
        self.values = max([self.values, *(one.numel() for one in tree_leaves(result) if isinstance(one, torch.Tensor))])
        return result


def test_the_product_is_never_queries_by_memory(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 4 * 64)
    monkeypatch.setattr(tiles, "QUERIES", {"cpu": 16})
    queries, memory = random(40, 2), random(4000, 2, seed=1)
    with Largest() as largest:
        found = nearest(queries, memory, 5)
    assert 16 * 4 * 50 <= largest.values <= 4000 * 2  # the memory itself is the largest
    assert torch.equal(found.index, naive(queries, memory, 5)[1])


@pytest.mark.parametrize(("lengths", "size"), [([196] * 3, 49), ([1024], 64), ([1], 32), ([33, 66, 1000], 36), ([70, 35], 35)])
def test_groups_pad_as_little_as_they_can(lengths, size):
    assert tiles.group_size(torch.tensor(lengths)) == size


def test_no_queries_no_neighbours():
    found = nearest(torch.zeros(0, 3), random(100, 3), 2)
    assert found.index.shape == found.score.shape == (0, 2)


def test_a_squared_distance_is_never_below_zero():
    rows = 10 * random(60, 300)
    score = nearest(rows, rows, 1, metric="l2").score
    assert (score <= 0).all()
    torch.testing.assert_close(score, torch.zeros(60, 1), atol=0.1, rtol=0)


def test_identical_rows_come_in_order():
    found = nearest(torch.ones(2, 3), torch.ones(100, 3), 5)
    assert found.index.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert nearest(torch.zeros(1, 3), random(100, 3), 3).index.tolist() == [[0, 1, 2]]


def test_top_by_hand():
    values = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0], [5.0, 4.0, 3.0, 2.0, 1.0], [-torch.inf, 0.0, -torch.inf, -0.0, 1.0]])
    value, place = top(values, 2)
    assert place.tolist() == [[1, 2], [0, 1], [4, 1]]
    assert value.tolist() == [[3, 3], [5, 4], [1, 0]]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 999), st.sampled_from([1, 3, 1000]))
def test_pairs_of_values_and_indices_give_the_same_top(rows, columns, seed, high):
    values = integers(rows, columns, seed=seed, high=high) / 7
    values[values == -1 / 7] = -0.0
    for k in {1, (columns + 1) // 2, columns}:
        expected = values.sort(dim=1, descending=True, stable=True)
        value, index = neighbours.top_of_pairs(values, k)
        assert torch.equal(index, expected.indices[:, :k])
        assert torch.equal(value, expected.values[:, :k])
        assert torch.equal(index, top(values, k)[1])


def test_pairs_order_infinities():
    values = torch.tensor([[-torch.inf, 3.0, torch.inf, -torch.inf, -3e38, 1e-40, -1e-40]])
    assert neighbours.top_of_pairs(values, 7)[1].tolist() == [[2, 1, 5, 6, 4, 0, 3]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_memory_is_scored_in_float32(dtype):
    memory, queries = random(200, 16).to(dtype), random(5, 16, seed=1)
    found = nearest(queries, memory, 10)
    assert found.score.dtype == torch.float32
    assert torch.equal(found.index, naive(queries, memory.float(), 10)[1])


def test_inputs_need_not_be_contiguous():
    memory, queries = random(16, 150).T, random(16, 9, seed=1).T
    assert torch.equal(nearest(queries, memory, 4).index, naive(queries, memory, 4)[1])


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 999))
def test_order_of_queries_and_of_blocks_does_not_matter(seed):
    generator = torch.Generator().manual_seed(seed)
    memory, queries = random(120, 6, seed=seed), random(11, 6, seed=seed + 1)
    found = nearest(queries, memory, 7)
    shuffled = torch.randperm(11, generator=generator)
    assert torch.equal(nearest(queries[shuffled], memory, 7).index, found.index[shuffled])
    parts = [nearest(part, memory, 7).index for part in queries.split(4)]
    assert torch.equal(torch.cat(parts), found.index)
    rows = torch.randperm(120, generator=generator)
    assert torch.equal(rows[nearest(queries, memory[rows], 7).index], found.index)


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_faiss_equals_exact(metric):
    memory, queries = random(500, 12), random(30, 12, seed=1)
    exact, other = (nearest(queries, memory, 9, engine=engine, metric=metric) for engine in ("exact", "faiss"))
    assert torch.equal(exact.index, other.index)
    torch.testing.assert_close(exact.score, other.score, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("engine", ["faiss-ivf", "scann"])
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_approximate_engines_find_nearly_all_in_clustered_data(engine, metric):
    centres = torch.nn.functional.normalize(random(30, 24, seed=9), dim=1)
    memory = torch.nn.functional.normalize(centres.repeat_interleave(100, 0) + 0.15 * random(3000, 24), dim=1)
    queries = memory[::50] + 0.01 * random(60, 24, seed=3)
    exact, found = (nearest(queries, memory, 10, engine=e, metric=metric) for e in ("exact", engine))
    assert recall(found.index, exact.index) > 0.9
    expected = (queries[:, None] * memory[found.index]).sum(2)
    if metric == "l2":
        expected = -(queries[:, None] - memory[found.index]).square().sum(2)
    torch.testing.assert_close(found.score, expected)
    assert (found.score.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("engine", ["faiss", "faiss-ivf"])
def test_other_engines_keep_subsets_apart(engine):
    memory, segments = random(300, 8), torch.tensor([100, 100, 100])
    members = torch.tensor([[True, False, True], [False, True, False]])
    found = Search(memory, segments, members, engine=engine).search(random(5, 8, seed=1), 6)
    assert not ((found.index[0] >= 100) & (found.index[0] < 200)).any()
    assert ((found.index[1] >= 100) & (found.index[1] < 200)).all()


def test_what_an_engine_misses_is_searched_exactly(monkeypatch):
    def lame(memory, metric):
        return lambda queries, k: np.full((len(queries), k), -1)

    monkeypatch.setattr(engines, "faiss_ivf", lame)
    memory, queries = random(50, 4), random(6, 4, seed=1)
    assert torch.equal(nearest(queries, memory, 3, engine="faiss-ivf").index, nearest(queries, memory, 3).index)


def test_recall_by_hand():
    assert recall(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2, 9], [4, 3]])) == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k = 0 neighbours"),
        ({"k": 11}, "k = 11 neighbours: a memory holds 10 rows; ask for 1 to 10"),
        ({"queries": torch.full((2, 3), torch.nan)}, "queries hold values that are not finite"),
        ({"memory": torch.full((10, 3), torch.inf)}, "memory hold values that are not finite"),
        ({"engine": "fais"}, "unknown search engine 'fais'"),
        ({"engine": "scann"}, "scann takes 16 rows or more, not 10; use --engine exact"),
        ({"queries": torch.full((2, 3), 1e30), "memory": torch.full((10, 3), 1e30)}, "exceed the range of float32"),
        ({"queries": torch.full((2, 3), 1e30), "memory": torch.full((10, 3), -1e30)}, "exceed the range of float32"),
        ({"queries": torch.full((2, 3), 1e30), "metric": "l2"}, "exceed the range of float32"),
    ],
)
def test_errors(change, message):
    given = {"queries": torch.ones(2, 3), "memory": torch.ones(10, 3), "k": 3, **change}
    with pytest.raises(UserError, match=message):
        nearest(**given)


def test_an_unknown_metric_is_told():
    unchecked = inspect.unwrap(Search.__init__)  # beartype would speak first
    with pytest.raises(UserError, match="unknown search metric 'cosine': there are dot, l2"):
        unchecked(object(), torch.ones(10, 3), torch.tensor([10]), torch.ones(1, 1, dtype=torch.bool), metric="cosine")


def test_widths_must_agree():
    ready = Search(torch.ones(10, 3), torch.tensor([10]), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(UserError, match="queries have 4 features and the memory 3"):
        ready.search(torch.ones(2, 4), 3)


def test_a_missing_library_is_told(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(engines.importlib, "import_module", missing)
    with pytest.raises(UserError, match="faiss cannot be imported.*--engine exact"):
        nearest(torch.ones(2, 3), torch.ones(10, 3), 3, engine="faiss")
