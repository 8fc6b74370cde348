"""Copies between host and device, as far as a CPU shows them: values, types, pieces, and the order of steps read late."""

from __future__ import annotations

import pytest
import torch

from densebench.numerics.device_copy import joined_on_device, on_device
from densebench.numerics.host_copy import one_late

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_on_the_cpu_nothing_is_copied():
    rows = torch.arange(6.0).view(3, 2)
    assert on_device(rows, CPU) is rows


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.int64])
def test_parts_are_joined_in_order_in_their_own_type(dtype):
    parts = [torch.arange(start, start + 4).view(2, 2).to(dtype) for start in (0, 4, 8)]
    found = joined_on_device(parts, CPU)
    assert found.dtype == dtype and torch.equal(found, torch.arange(12).view(6, 2).to(dtype))


def test_steps_for_a_gpu_are_yielded_after_the_next_one_was_made():
    made = []

    def steps():
        for step in range(4):
            made.append(step)
            yield step

    seen = [(step, len(made)) for step in one_late(steps(), GPU)]
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]


def test_steps_on_the_cpu_are_yielded_at_once():
    made = []

    def steps():
        for step in range(3):
            made.append(step)
            yield step

    assert [(step, len(made)) for step in one_late(steps(), CPU)] == [(0, 1), (1, 2), (2, 3)]


def test_steps_made_before_an_error_are_lost_by_one_at_most():
    def steps():
        yield from (1, 2, 3)
        raise RuntimeError("broken")

    seen = []
    with pytest.raises(RuntimeError, match="broken"):
        seen.extend(one_late(steps(), GPU))
    assert seen == [1, 2]
    assert list(one_late(iter(()), GPU)) == []
