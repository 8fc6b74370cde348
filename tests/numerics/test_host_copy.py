"""What is read late: steps one behind, and indices of true entries, against `nonzero` and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.numerics.late_indices import LateIndices, positions_among, true_indices


def drawn(shape, share, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def test_by_hand():
    mask = torch.tensor([[False, True, True], [True, False, True]])
    [indices] = LateIndices(mask).indices()
    assert indices.tolist() == [1, 2, 3, 5]
    assert positions_among(mask, indices).tolist() == [0, 1, 2, 3]
    assert positions_among(mask, torch.tensor([5, 2])).tolist() == [3, 1]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.integers(0, 99),
)
def test_indices_equal_those_of_nonzero(shapes, share, seed):
    masks = [drawn(shape, share, seed + number) for number, shape in enumerate(shapes)]
    found = LateIndices(*masks).indices()
    assert len(found) == len(masks)
    for mask, indices in zip(masks, found, strict=True):
        assert indices.dtype == torch.int64
        assert torch.equal(indices, mask.flatten().nonzero()[:, 0])
        assert torch.equal(positions_among(mask, indices), torch.arange(len(indices)))


def test_a_number_that_is_known_needs_no_count():
    mask = drawn((50,), 0.4, 3)
    assert torch.equal(true_indices(mask, int(mask.sum())), mask.nonzero()[:, 0])


@pytest.mark.parametrize("masks", [1, 3])
def test_the_counts_of_all_masks_are_read_at_once(monkeypatch, masks):
    reads = []
    value = HostCopy.value
    monkeypatch.setattr(HostCopy, "value", lambda copy: reads.append(copy) or value(copy))
    late = LateIndices(*(drawn((4, 5), 0.5, seed) for seed in range(masks)))
    assert not reads
    late.indices()
    assert len(reads) == 1


def test_a_tensor_for_the_cpu_stays_as_it_is():
    tensor = torch.rand(3, 4)[:, 1:]
    assert torch.equal(on_device(tensor, torch.device("cpu")), tensor)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize(("device", "behind"), [("cpu", 0), ("cuda", 1)])
def test_every_step_comes_in_order_and_on_a_gpu_once_the_next_one_is_made(device, behind, count):
    made = []
    steps = (made.append(number) or number for number in range(count))
    found = [(step, len(made)) for step in one_late(steps, torch.device(device))]
    assert found == [(number, min(count, number + 1 + behind)) for number in range(count)]
