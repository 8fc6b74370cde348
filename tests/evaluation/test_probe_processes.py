"""Probes where several processes train together: the first one scores; the others do not wait, or wait and get the value."""

from __future__ import annotations

import json

import pytest
import together
import torch.distributed as dist
from growing import FEW, LIMIT, Net

import densebench
from densebench import processes
from densebench.errors import UserError

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch, torch.distributed as dist
import densebench
from growing import FEW, LIMIT, Net
from densebench.errors import UserError
from densebench.processes import world_size

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
dist.init_process_group("gloo")
torch.manual_seed(rank)
model = torch.nn.parallel.DistributedDataParallel(Net())
result = {}
given = {"limit": LIMIT, **FEW}
main = densebench.Probe("scenes", "incontext", folder=folder / "main", every=2, **given)
if rank == 0:  # the other does not call: nothing may wait for it
    result["alone"] = main(model, 0)
result["size"] = world_size()
dist.barrier()
result["both"] = main(model, 2)
both = densebench.Probe("scenes", "incontext", folder=folder / "all", ranks="all", **given)
result["all"] = [both(model, step) for step in range(2)]
result["best"] = both.best
try:
    both("nothing:such", 3)
except UserError as error:
    result["error"] = str(error)
result["after"] = both(model, 4)
loss = model(torch.randn(4, 3, 32, 32)).square().mean()
loss.backward()
(folder / f"{rank}.json").write_text(json.dumps(result))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    ends = together.run(["-c", SCRIPT, str(tmp_path)], 2, tmp_path)
    assert [end.status for end in ends] == [0, 0], ends
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["alone"] == first["both"] == first["all"][0] == first["after"] and first["size"] == second["size"] == 2
    assert second["both"] is None and "alone" not in second
    assert first["all"] == second["all"] and first["best"] == second["best"] and first["after"] == second["after"]
    assert "nothing:such" in first["error"] and second["error"] == f"the main process failed: {first['error']}"
    assert len((tmp_path / "all" / "probe.csv").read_text().splitlines()) == 4


@pytest.fixture
def second_of_two(monkeypatch):
    """This process is the second of two, of which the first does nothing."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)


def test_all_processes_but_the_first_get_nothing_at_once(second_of_two, tmp_path):
    asked = densebench.Probe("scenes", "incontext", limit=LIMIT, folder=tmp_path, **FEW)
    assert asked(Net(), 0) is None and asked.history.empty and not list(tmp_path.iterdir())


def test_the_other_processes_forget_the_steps_that_a_resumed_training_repeats(second_of_two, monkeypatch, tmp_path):
    given = {"limit": LIMIT, "folder": tmp_path, **FEW}
    with processes.alone():
        earlier = densebench.Probe("scenes", "incontext", **given)
        assert [earlier("pixels:16", step) > 0 for step in (0, 1)] == [True, True]
    monkeypatch.setattr(dist, "broadcast_object_list", lambda sent, *_, **__: sent.__setitem__(0, {"value": "0.5"}))
    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    resumed = densebench.Probe("scenes", "incontext", ranks="all", **given)
    assert resumed("pixels:16", 1) == 0.5
    assert resumed.history["step"].tolist() == [0, 1]


def test_other_processes_raise_what_failed_in_the_first(second_of_two, monkeypatch):
    def receive(result, *_, **__):
        result[1] = "the main process failed: no such network"

    monkeypatch.setattr(dist, "broadcast_object_list", receive)
    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    with pytest.raises(UserError, match="the main process failed: no such network"):
        processes.from_main(lambda: pytest.fail("only the main process works"))


def test_a_process_that_works_alone_is_the_only_one(second_of_two):
    with processes.alone():
        assert (processes.world_size(), processes.rank()) == (1, 0)
        processes.synchronise()
    assert (processes.world_size(), processes.rank()) == (2, 1)
