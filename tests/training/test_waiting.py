"""Several processes of which one works by itself: the others wait, longer than an exchange of tensors may take."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

SCRIPT = """
import functools, os, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from densebench.training.run import train
from densebench.evaluation.headline import Headline
from densebench.training import run_folder

dist.init_process_group = functools.partial(dist.init_process_group, timeout=timedelta(seconds=5))
probed, ready = [], Path(sys.argv[1])

class Slow:
    def __init__(self, *_, **__):
        pass

    def score(self, model, step):
        time.sleep(0 if probed else 9)
        probed.append(1)
        return Headline("miou", "identity", 1.0, "%", "higher", 1, None)

run_folder.Probe = Slow
(ready / os.environ["RANK"]).touch()  # both have imported everything
while len(list(ready.glob("[01]"))) < 2:
    time.sleep(0.05)
train(
    "dino", data=["scenes"], limit=8, output=ready / "run", arch="test_vit", image_size=32, batch_size=4, local_crops=0,
    hidden_dim=16, bottleneck_dim=8, out_dim=16, device="cpu", epochs=2, cache="none", probe="scenes", probe_every=1,
)
print("done", len(probed))
"""


@pytest.mark.slow
def test_processes_wait_for_the_one_that_probes(tmp_path):
    """With a time-out of five seconds for every exchange, and a probe of nine after the first of two epochs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out.split() for out, _ in said] == [["done", "2"], ["done", "0"]]
