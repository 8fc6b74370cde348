"""Work that is dealt out to processes, and collected in its order."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from processes_as_threads import in_threads

from densebench import processes


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_what_is_dealt_out_is_collected_in_its_order(monkeypatch, size, count):
    work = list(range(count))
    shares = []
    for rank in range(size):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(processes, "world_size", lambda: size)
        shares.append(processes.dealt(work))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

    def all_gather_object(parts, mine, group):
        parts[:] = shares

    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    monkeypatch.setattr(dist, "new_group", lambda **given: None)
    assert processes.collected(shares[0]) == work


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("first", [0, 1, 4, 5])
def test_rows_of_the_later_part_of_some_work_come_in_its_order(size, first, count=6):
    """The work before part number `first` has been dealt out too, and decides whose row comes first."""
    rows = torch.arange(10 * count).view(count, 10)

    def work():
        before = len(processes.dealt(range(first)))
        own = processes.dealt(range(first + count))[before:]
        return processes.in_order(rows[[number - first for number in own]], first)

    for found in in_threads(size, work):
        assert torch.equal(found, rows)
