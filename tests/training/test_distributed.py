"""Two processes (gloo) and one with the same global batch: equal where mathematics says so.

DINO: losses are means over images, centres are gathered, noise and data belong to images: equal up to the order of sums.
CrIBo, CrOC and NeCo: the same once `group_size` is one process's share, since costs are rescaled, cycles closed, objects
averaged and patches dealt out within groups; in CrIBo's paper variant cycles close over the whole batch. FLSL: its mean
distribution and NeCo's queue are those of all processes.
Stochastic depth is drawn per process and is left out here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from densebench.files import states

SCRIPT = """
import json, sys, torch
torch.set_num_threads(1)
from densebench.training.run import train
method, output, options = sys.argv[1:]
train(method, data=["scenes"], limit=24, output=__import__("pathlib").Path(output), **json.loads(options))
"""
OPTIONS = {
    "arch": "test_vit", "image_size": 32, "batch_size": 8, "hidden_dim": 32, "bottleneck_dim": 16, "device": "cpu",
    "steps": 3, "drop_path": 0, "lr": 0.01, "warmup_epochs": 0, "cache": "none", "group_size": 4,
}  # fmt: skip
PROTOTYPES = {"out_dim": 64, "freeze_last_layer": 0}
SORTING = {
    "local_crops": 1,
    "local_size": 16,
    "region_size": 2,
    "reference_count": 6,
    "lr": 1e-4,
    "head_lr": 1e-4,
    "steepness": 10.0,
}
CLUSTERS = {**PROTOTYPES, "local_crops": 1, "local_size": 16, "window": 1, "local_window": 1}
OWN = {
    "dino": {**PROTOTYPES, "local_crops": 1, "local_size": 16},
    "croc": {**PROTOTYPES, "object_dim": 48, "k_start": 4, "k_max": 4},
    "cribo": {**PROTOTYPES, "object_dim": 48, "objects": 4, "memory": 16, "bootstrap_after": 0},
    "cribo paper": {**PROTOTYPES, "object_dim": 48, "objects": 4, "memory": 16, "bootstrap_after": 0, "variant": "paper"},
    "neco": SORTING,
    "neco queue": {**SORTING, "references": "queue", "queue_size": 24, "queue_patches": 2},
    "neco fraction": {**SORTING, "references": "fraction", "reference_fraction": 0.5, "both_directions": True},
    "flsl": {**CLUSTERS, "centre": True},
    "flsl sinkhorn": {**CLUSTERS, "sinkhorn": 2},
}


def train(method, output, world):
    import json

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-c", SCRIPT, method.split()[0], str(output), json.dumps({**OPTIONS, **OWN[method]})]
    common = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(words, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * world, errors
    from safetensors.torch import load_file

    return load_file(states.saved_states(output)[-1])


@pytest.mark.slow
@pytest.mark.parametrize("method", OWN)
def test_two_processes_equal_one(method, tmp_path):
    one, two = train(method, tmp_path / "one", 1), train(method, tmp_path / "two", 2)
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith(("exp_avg", "centre.value", "objects", "queue.rows")):
            torch.testing.assert_close(one[name], two[name], rtol=2e-3, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")
    whole = [name for name in one if name.startswith("objective/") and one[name].dtype in (torch.bool, torch.int64, torch.int16)]
    assert all(torch.equal(one[name], two[name]) for name in whole)
    if method == "cribo":
        assert {"objective/bank.valid", "objective/bank.numbers", "objective/bank.pointer", "objective/bank.labels"} <= set(whole)
