"""Two processes (gloo) and one with the same global batch: equal where mathematics says so.

DINO: losses are means over images, centres are gathered, noise and data belong to images: equal up to the order of sums.
CrIBo and CrOC: the same once `group_size` is one process's share, since costs are rescaled, cycles closed and objects
averaged within groups. Stochastic depth is drawn per process and is left out here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from densebench.training import states

SCRIPT = """
import json, sys, torch
torch.set_num_threads(1)
from densebench.pretraining import pretrain
method, output, options = sys.argv[1:]
pretrain(method, data=["scenes"], limit=24, output=__import__("pathlib").Path(output), **json.loads(options))
"""
OPTIONS = {
    "arch": "test_vit", "image_size": 32, "batch_size": 8, "hidden_dim": 32, "bottleneck_dim": 16, "out_dim": 64, "device": "cpu",
    "steps": 3, "drop_path": 0, "lr": 0.01, "warmup_epochs": 0, "cache": "none", "group_size": 4, "freeze_last_layer": 0,
}  # fmt: skip
OWN = {
    "dino": {"local_crops": 1, "local_size": 16},
    "croc": {"object_dim": 48, "k_start": 4, "k_max": 4},
    "cribo": {"object_dim": 48, "objects": 4, "memory": 16, "bootstrap_after": 0},
}


def train(method, output, world):
    import json

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-c", SCRIPT, method, str(output), json.dumps({**OPTIONS, **OWN[method]})]
    common = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(words, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * world, errors
    from safetensors.torch import load_file

    return load_file(states.saved_states(output)[-1])


@pytest.mark.parametrize("method", ["dino", "croc", "cribo"])
def test_two_processes_equal_one(method, tmp_path):
    one, two = train(method, tmp_path / "one", 1), train(method, tmp_path / "two", 2)
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith(("exp_avg", "centre.value", "objects")):
            torch.testing.assert_close(one[name], two[name], rtol=2e-3, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")
    whole = [name for name in one if name.startswith("objective/") and one[name].dtype in (torch.bool, torch.int64, torch.int16)]
    assert all(torch.equal(one[name], two[name]) for name in whole)
    if method == "cribo":
        assert {"objective/bank.valid", "objective/bank.numbers", "objective/bank.pointer", "objective/bank.labels"} <= set(whole)
