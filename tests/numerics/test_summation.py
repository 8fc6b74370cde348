"""Sums that decide a number are added in one order, so that a GPU finds the same twice.

Atomic additions of floats come in any order there; what uses them is told by its operations on tensors without data (meta).
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from densebench.numerics import lloyd
from densebench.numerics.first_centroids import plus_plus
from densebench.numerics.kmeans import kmeans, minibatch
from densebench.numerics.segment_sums import segment_sums, sums_by_index, sums_by_segments
from densebench.numerics.votes import classes_before

META = torch.device("meta")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(n, d, count, used, dtype=torch.float32):
    """Values of very unequal size, and an index that takes `used` of `count` values."""
    values = torch.randn(n, d, generator=seeded(n), dtype=dtype) * 10.0 ** torch.randint(-3, 4, (n, 1), generator=seeded(d))
    return values, torch.randperm(count, generator=seeded(1))[:used][torch.randint(0, used, (n,), generator=seeded(2))]


class Unordered(TorchDispatchMode):
    """Collects the operations whose float sums have no order on a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2].rstrip("_")
        floats = [value for value in args if isinstance(value, torch.Tensor) and value.is_floating_point()]
        many = name != "scatter_add" or args[2].shape[args[1]] > 1  # one addition an element has an order
        if floats and many and name in ("index_add", "scatter_add", "scatter_reduce", "bincount", "cumsum"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "d", "count", "used"), [(1, 1, 1, 1), (40, 3, 7, 7), (300, 1, 900, 20), (20_000, 50, 300, 200), (5000, 7, 3, 1)]
)
def test_segments_give_the_same_bits_as_additions_in_order(n, d, count, used, dtype):
    values, index = drawn(n, d, count, used, dtype)
    assert torch.equal(sums_by_segments(values, index, count, piece=n), sums_by_index(values, index, count))


@pytest.mark.parametrize("piece", [1, 3, 64, 2000])
def test_pieces_of_segments_sum_to_what_the_segments_do(piece):
    lengths = torch.tensor([0, 700, 1, 0, 64, 63, 65, 128, 0, 979, 0])
    values = torch.randint(-999, 999, (2000, 3), generator=seeded()).float()  # whole numbers: exact in any order
    expected = torch.stack([part.sum(0) for part in values.split(lengths.tolist())])
    assert torch.equal(segment_sums(values, lengths, piece), expected)


def test_a_long_segment_is_summed_more_exactly_than_row_by_row():
    values = torch.rand(100_000, 1, generator=seeded()) + 1
    exact = values.double().sum()
    one_by_one = sums_by_index(values, torch.zeros(100_000, dtype=torch.int64), 1).double()
    assert (segment_sums(values, torch.tensor([100_000])).double() - exact).abs() < (one_by_one - exact).abs() / 10


@pytest.mark.parametrize("way", [sums_by_index, sums_by_segments])
def test_sums_are_those_of_a_loop(way):
    values, index = drawn(200, 4, 9, 6)
    expected = torch.zeros(9, 4)
    for row, own in zip(values, index.tolist(), strict=True):
        expected[own] += row
    assert torch.equal(way(values, index, 9), expected)


def test_a_cluster_without_points_sums_to_zero():
    found = sums_by_segments(torch.ones(3, 2), torch.tensor([1, 3, 3]), 6)
    assert found.tolist() == [[0, 0], [1, 1], [0, 0], [2, 2], [0, 0], [0, 0]]


@pytest.mark.parametrize("fit", [kmeans, minibatch])
@pytest.mark.parametrize("init", ["points", "k-means++"])
def test_a_fit_by_segments_is_the_same_bit_for_bit(fit, init, monkeypatch):
    """Points that are often equal, so that clusters become empty and are filled."""
    points = torch.randn(600, 2, generator=seeded()).round() + 0.1
    before = fit(points, 30, restarts=3, init=init, per_cluster=None)
    monkeypatch.setattr(lloyd, "sums_by_index", sums_by_segments)
    after = fit(points, 30, restarts=3, init=init, per_cluster=None)
    assert torch.equal(before.centroids, after.centroids)
    assert before.inertia == after.inertia


@pytest.mark.parametrize(
    "work",
    [
        lambda: sums_by_index(torch.zeros(9, 2, device=META), torch.zeros(9, dtype=torch.int64, device=META), 3),
        lambda: plus_plus(torch.zeros(9, 2, device=META), 4, 1, seeded()),
        lambda: classes_before(
            torch.zeros(5, 8, device=META),
            torch.zeros(5, 8, dtype=torch.int64, device=META),
            torch.zeros(5, dtype=torch.int64, device=META),
            (2, 8), 0.07, 3,
        ),
    ],
    ids=["sums of clusters", "k-means++", "votes of neighbours"],
)  # fmt: skip
def test_on_a_device_floats_are_added_in_one_order(work):
    with Unordered() as unordered:
        work()
    assert not unordered.seen


def test_an_empty_cluster_is_filled_by_sums_in_one_order(monkeypatch):
    """The inertia of a cluster, which decides where the empty one goes, is one of those sums."""
    monkeypatch.setattr(lloyd, "sums_by_index", sums_by_segments)
    points, centroids = torch.tensor([[0.0], [1.0], [10.0], [14.0]]), torch.tensor([[0.5], [12.0], [99.0]])
    with Unordered() as unordered:
        lloyd.refill(points, torch.tensor([0, 0, 1, 1]), centroids, [2])
    assert not unordered.seen
    assert centroids[2].item() == 10.0
