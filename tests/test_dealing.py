"""Work that is dealt out to processes, and collected in its order."""

from __future__ import annotations

import pytest
import torch.distributed as dist

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
