"""Scripts run by several processes that work together (gloo), as torchrun would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class End(NamedTuple):
    """How one of the processes ended."""

    status: int
    out: str
    err: str


def run(words, processes, folder, seconds=900, **more) -> list[End]:
    """Run `python WORDS` in so many processes in a folder, with a cache of their own there; modules of tests can be imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DENSEBENCH_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    common |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **more}
    begun = [
        subprocess.Popen(
            [sys.executable, *words], env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    said = [process.communicate(timeout=seconds) for process in begun]
    return [End(process.returncode, *texts) for process, texts in zip(begun, said, strict=True)]
