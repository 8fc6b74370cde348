"""The two-pass search against one float32 routine over the whole memory, on memories that are made to mislead it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import late

from densebench.errors import UserError
from densebench.numerics.search import Search, bounds, tiles

PRECISIONS = ["fp16", "bf16", "tf32"]
SCALES = [2.0**-40, 1.0, 3e4, 2.0**40]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expected(queries, memory, k, metric="dot", held=None):
    """Scores of single pairs in float32, sorted stably: what is promised, whatever the first pass rounds."""
    doubled = queries if metric == "dot" else 2 * queries
    scores = (doubled[:, None].float() * memory[None].float()).sum(2)
    if metric == "l2":
        scores = scores - memory.float().square().sum(1)
    if held is not None:
        scores = scores.masked_fill(~held, -torch.inf)
    value, order = scores.sort(dim=1, descending=True, stable=True)
    if metric == "l2":
        value = (value - queries.square().sum(1)[:, None]).clamp(max=0.0)
    return value[:, :k], order[:, :k]


def compare(queries, memory, k, precision, metric="dot", segments=None, members=None, fused=False):
    segments = torch.tensor([len(memory)]) if segments is None else segments
    members = torch.ones(1, len(segments), dtype=torch.bool) if members is None else members
    search = Search(memory, segments, members, metric=metric, first_pass=precision, fused=fused)
    found = search.search(queries, k)
    for s, held in enumerate(torch.repeat_interleave(members, segments, dim=1)):
        value, index = expected(queries, memory, k, metric, held)
        other = (found.index[s] != index).any(1) | (found.score[s] != value).any(1)
        assert int(other.sum()) <= search.fallbacks
        check_within_rounding(found.score[s][other], value[other], queries[other], memory)
        assert held[found.index[s]].all()
        assert (found.index[s].sort(dim=1).values.diff(dim=1) > 0).all()
    return search


def check_within_rounding(score, value, queries, memory):
    """The plain search adds in another order than what is expected of single pairs."""
    longest = memory.float().norm(dim=1).max()
    room = 2 * memory.shape[1] * 2.0**-23 * (queries.norm(dim=1) + longest) * longest
    assert ((score - value).abs() <= room[:, None]).all()


def near_ties():
    """Rows that differ by less than any of the formats can hold."""
    return torch.ones(400, 8) + 1e-5 * random(400, 8)


def colliding():
    """Five hundred rows that are one row in bfloat16, and nearly one in float16."""
    return random(1, 16).expand(500, -1) * (1 + 2.0**-12 * random(500, 1, seed=3))


def uneven():
    """Rows from 1e-6 to 1e6 times as long as each other."""
    return random(300, 12) * 10 ** (12 * torch.rand(300, 1, generator=torch.Generator().manual_seed(5)) - 6)


def dominated():
    rows = random(300, 8)
    rows[217] *= 1e4
    return rows


MEMORIES = {
    "near ties": near_ties, "colliding": colliding, "uneven": uneven, "dominated": dominated,
    "all equal": lambda: torch.ones(200, 4), "zeros": lambda: torch.zeros(150, 4), "twice": lambda: random(120, 6).repeat(2, 1),
    "opposite": lambda: torch.cat([random(90, 5), -random(90, 5)]), "one": lambda: random(1, 3),
    "integers": lambda: random(300, 4).round(), "wide": lambda: random(100, 700),
}  # fmt: skip


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("name", late(MEMORIES, "near ties", "colliding", "dominated", "twice", "one"))
def test_memories_that_mislead(name, metric, precision, fused):
    memory = MEMORIES[name]()
    queries = torch.cat([memory[:7], random(5, memory.shape[1], seed=8), torch.zeros(1, memory.shape[1])])
    for k in {1, min(5, len(memory)), min(64, len(memory)), min(100, len(memory))}:
        compare(queries, memory, k, precision, metric, fused=fused)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("of_queries", SCALES)
@pytest.mark.parametrize("of_rows", SCALES)
def test_huge_and_tiny_values(of_queries, of_rows, precision):
    search = compare(of_queries * random(9, 16), of_rows * random(500, 16, seed=1), 4, precision)
    assert search.fallbacks == search.widened == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_distances_between_scales_far_apart(precision):
    compare(torch.cat([1e6 * random(3, 8), 1e-6 * random(3, 8)]), random(300, 8, seed=1), 5, precision, "l2")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_whose_squared_roundings_vanish_beside_a_long_one(precision):
    """The long row is the farthest. What is measured of the others, 2^70 times as short, is 0."""
    query, memory = one_way(2.0**-10 if precision == "tf32" else 2.0**-7)
    memory *= 2.0**-70
    memory[200] = -1.0
    compare(query, memory, 1, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_that_nearly_vanish(precision):
    """Scores near 2^-134 are multiples of 2^-149; the power of two that brings them near 1 is above the largest float32."""
    memory = 2.0**-68 * (1 + 3e-4 * random(500, 4))
    compare(2.0**-68 * (1 + 1e-3 * random(5, 4, seed=2)), memory, 1, precision)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=12), st.integers(1, 9), st.sampled_from(["dot", "l2"]),
    st.sampled_from(PRECISIONS), st.integers(0, 999), st.booleans(), st.sampled_from([40, 300, 2**18]),
    st.booleans(),
)  # fmt: skip
def test_every_subset_whatever_the_tiles(lengths, queries, metric, precision, seed, tied, tile, fused):
    segments = torch.tensor(lengths)
    members = (
        torch.rand(5, len(lengths), generator=torch.Generator().manual_seed(seed))
        < torch.tensor([1, 0.8, 0.5, 0.2, 0.1])[:, None]
    )
    members[0] = True
    members[range(5), torch.arange(5) % len(lengths)] = True
    memory, asked = random(int(segments.sum()), 5, seed=seed), random(queries, 5, seed=seed + 1)
    if tied:
        memory, asked = memory.round(), asked.round()
    smallest = int((members * segments).sum(1).min())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", tile)
        patch.setattr(tiles, "QUERIES", {"cpu": 4})
        compare(asked, memory, max(1, smallest // 2), precision, metric, segments, members, fused)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_memory_in_half_precision(dtype):
    compare(random(6, 24), random(900, 24, seed=1).to(dtype), 10, {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(PRECISIONS), st.sampled_from(["dot", "l2"]), st.integers(1, 300), st.integers(0, 999), st.floats(0, 60))
def test_no_score_exceeds_its_bound(precision, metric, dim, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    rows, queries = (
        torch.randn(n, dim, generator=generator) * 10 ** (spread * (torch.rand(n, 1, generator=generator) - 0.5)) for n in (50, 9)
    )
    scale = bounds.scale_of(rows, (0, 1))
    asked = bounds.bounded_queries(queries, scale, metric, precision)
    bound = bounds.ceiling(
        bounds.product(asked.extended, bounds.extended_rows(rows, scale, torch.ones(50) > 0, metric, precision)), precision
    )
    score = (queries[:, None] * rows).sum(2)
    score = score - rows.square().sum(1) if metric == "l2" else score
    finite = score.isfinite().all(1) & asked.usable
    assert (score * asked.scale[:, None] <= bound)[finite].all()


def one_way(step):
    """A query and a memory whose roundings all go one way: the first row is the best, but no longer once all are rounded.

    In the query and in the first row every number is rounded down by nearly half a step; in the others by a quarter.
    """
    query = torch.full((1, 64), 1 + 0.49 * step)
    memory = torch.full((201, 64), 1 + 0.25 * step)
    memory[1:] = memory[1:] + step  # rounded down by a quarter to one step more than the first row's
    memory[0] = 1 + 1.49 * step
    memory[0, :2] -= step  # so that, rounded, the first row is the smaller one
    return query, memory


@pytest.mark.parametrize(("precision", "step"), [("fp16", 2.0**-10), ("bf16", 2.0**-7)])
def test_roundings_that_all_go_one_way(monkeypatch, precision, step):
    """The bound is no larger than it must be: with half of it, the best row here is missed, and its loss "proven"."""
    query, memory = one_way(step)
    compare(query, memory, 1, precision)
    whole = bounds.extended_rows, bounds.bounded_queries

    def halved(extended):
        extended = extended.clone()
        extended[:, 67:69] /= 2
        return extended

    monkeypatch.setattr(bounds, "extended_rows", lambda *a: halved(whole[0](*a)))
    with pytest.raises(AssertionError):
        compare(query, memory, 1, precision)


def test_equal_rows_beyond_the_candidates_take_the_plain_search():
    """Two of three queries see a thousand equal scores; the third has one row of its own."""
    memory = torch.ones(1000, 2)
    memory[700] = torch.tensor([5.0, -5.0])
    search = compare(torch.tensor([[1.0, 1.0], [3.0, -1.0], [2.0, 2.0]]), memory, 1, "fp16")
    assert (search.widened, search.fallbacks) == (2, 2)
    search.search(torch.tensor([[1.0, 1.0]]), 1)
    assert (search.widened, search.fallbacks) == (3, 3)


def test_equal_rows_within_more_candidates_take_no_plain_search():
    memory = random(1000, 16)
    memory[100:180] = 3 * torch.ones(16)
    search = compare(torch.ones(4, 16), memory, 5, "fp16")
    assert (search.widened, search.fallbacks) == (4, 0)


def test_a_search_in_one_pass_counts_nothing():
    search = Search(random(50, 4), torch.tensor([50]), torch.ones(1, 1, dtype=torch.bool))
    search.search(random(2, 4), 3)
    assert search.fallbacks is search.widened is None


def test_no_queries():
    whole = torch.tensor([100]), torch.ones(1, 1, dtype=torch.bool)
    found = Search(random(100, 4), *whole, first_pass="fp16").search(torch.zeros(0, 4), 3)
    assert found.index.shape == found.score.shape == (1, 0, 3)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_overflow_is_told(sign):
    whole = torch.tensor([100]), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(UserError, match="exceed the range of float32"):
        Search(torch.full((100, 3), sign * 1e30), *whole, first_pass="fp16").search(torch.full((2, 3), 1e30), 3)


def test_an_unknown_first_pass_is_told():
    with pytest.raises(UserError, match="unknown first pass 'fp8': there are auto, none, fp16, bf16, tf32"):
        Search(torch.ones(10, 3), torch.tensor([10]), torch.ones(1, 1, dtype=torch.bool), first_pass="fp8")
