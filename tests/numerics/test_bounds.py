"""Each part of the bound is needed: its columns, what it allows for rounding, and what is left out when candidates are chosen."""

from __future__ import annotations

import pytest
import torch

from densebench.numerics.search import Search, bounds, tiles, two_pass
from densebench.numerics.search.candidates import batches_of_subsets

PRECISIONS = ["fp16", "bf16", "tf32"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def extended(queries, rows, metric, precision):
    """Extended queries and rows, the latter scaled by the power of two that suits them, and what scales a score."""
    scale = bounds.scale_of(rows, (0, 1))
    asked = bounds.bounded_queries(queries, scale, metric, precision)
    return asked, bounds.extended_rows(rows, scale, torch.ones(len(rows)) > 0, metric, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_extended_rows_bound_exact_scores_by_more_than_sums_may_be_wrong(metric, precision):
    """In float64 the product of the columns exceeds the score by d 2^-22 |q| |r|, also where roundings all go one way."""
    for seed, dim in enumerate([1, 7, 64, 500]):
        rows = (1 + 1e-3 * random(1, dim, seed=seed)) * (1 + 0.1 * random(60, 1, seed=seed + 9))
        queries = rows[:5] * torch.tensor([1.0, -1.0, 3.0, 100.0, 0.01])[:, None]
        asked, held = extended(queries, rows, metric, precision)
        score = queries.double() @ rows.double().T
        room = dim * 2.0**-22 * queries.double().norm(dim=1)[:, None] * rows.double().norm(dim=1)
        if metric == "l2":
            squares = rows.double().square().sum(1)
            score, room = score - squares, room + dim * 2.0**-22 * squares
        bound = asked.extended.double() @ held.double().T
        assert asked.usable.all()
        assert (bound >= (score + room) * asked.scale.double()[:, None]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("values", ["drawn", "half a step"])
def test_columns_of_lengths_are_never_rounded_down(values, precision):
    """|r|, |r - r'|, |q - q'| and |q| + |q - q'| as they are held, against float64."""
    rows = random(300, 12) if values == "drawn" else (1 + torch.arange(300)[:, None] * 2.0**-13).repeat(1, 12)
    asked, held = extended(rows, rows, "dot", precision)
    queries, memory = rows.double() * bounds.scale_of(rows, (1,)).double()[:, None], rows.double() * bounds.scale_of(rows, (0, 1))
    off = (queries - asked.extended[:, :12].double()).norm(dim=1)
    assert (asked.extended[:, 15].double() >= off).all()
    assert (asked.extended[:, 16].double() >= queries.norm(dim=1) + off).all()
    assert (held[:, 15].double() >= memory.norm(dim=1)).all()
    assert (held[:, 16].double() >= (memory - held[:, :12].double()).norm(dim=1)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_squared_length_keeps_its_slack_in_three_parts(precision):
    """The sum of the columns is minus the square, raised by the slack; what rounding the parts takes is far below that."""
    rows = 1 + 0.1 * random(200, 1)
    _, held = extended(rows, rows, "l2", precision)
    square = (rows.double() * bounds.scale_of(rows, (0, 1)).double())[:, 0].square()
    share = (held[:, 1:4].double().sum(1) + square) / square
    assert (share >= bounds.slack(1) - 2.0**-22).all()
    assert (share <= bounds.slack(1) + 2.0**-22 + 8 * bounds.FORMATS[precision].least / square).all()


def test_queries_whose_scales_are_too_far_apart_have_no_bound():
    rows, queries = torch.ones(3, 4), torch.tensor([1.0, 1e5, 1e-5, torch.inf])[:, None].expand(-1, 4)
    scale = bounds.scale_of(rows, (0, 1))
    assert bounds.bounded_queries(queries, scale, "l2", "fp16").usable.tolist() == [True, False, False, False]
    assert bounds.bounded_queries(queries, scale, "dot", "fp16").usable.tolist() == [True, True, True, False]


@pytest.mark.parametrize(("first", "held"), [(2.0**-68, "dot"), (2.0**-68, "l2")])
def test_scores_that_may_vanish_have_no_bound(first, held):
    rows = torch.full((3, 4), first)
    assert not bounds.bounded_queries(rows, bounds.scale_of(rows, (0, 1)), held, "fp16").usable.any()


def test_a_score_that_equals_the_bound_of_others_is_not_proven():
    memory = torch.ones(300, 1)
    scale = float(bounds.bounded_queries(torch.ones(1, 1), bounds.scale_of(memory, (0, 1)), "dot", "fp16").scale)
    search = Search(memory, torch.tensor([300]), torch.ones(1, 1, dtype=torch.bool), first_pass="fp16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_pass.bounds, "ceiling", lambda written, _: torch.full_like(written.float(), scale))
        search.search(torch.ones(2, 1), 1)
    assert search.fallbacks == 2


def test_a_query_is_searched_again_where_one_subset_of_several_is_not_proven():
    """The first subset holds a thousand equal rows, the second only rows that differ."""
    memory = torch.cat([torch.ones(1000, 4), random(50, 4)])
    memory[700] += 1e-5
    search = Search(memory, torch.tensor([1000, 50]), torch.tensor([[True, False], [False, True]]), first_pass="fp16")
    found = search.search(torch.ones(1, 4), 1)
    assert search.fallbacks == 1
    assert found.index[0].tolist() == [[700]]


def test_what_a_tile_leaves_out_is_in_the_ceiling(monkeypatch):
    """The first tile has 40 groups of one good row each, more than go on: the best may be among those that do not."""
    monkeypatch.setattr(tiles, "TILE", 64 * 40)
    memory = torch.full((64 * 80, 4), -1.0)
    memory[5 : 64 * 40 : 64] = 1.0
    memory[64 * 39 + 5] += 1e-6
    search = Search(memory, torch.tensor([len(memory)]), torch.ones(1, 1, dtype=torch.bool), first_pass="fp16")
    assert search.search(torch.ones(1, 4), 1).index.tolist() == [[[64 * 39 + 5]]]
    assert (search.widened, search.fallbacks) == (1, 0)


def test_subsets_that_hold_about_as_many_groups_are_searched_together():
    held = torch.arange(40) < torch.tensor([1, 30, 3, 2, 17, 40])[:, None]
    assert batches_of_subsets(held) == [[0], [1, 4], [2, 3], [5]]
