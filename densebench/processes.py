"""Where work is done: the device and the number of decoding processes."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from multiprocessing import forkserver

import torch

from densebench.errors import UserError

QUIET = "ignore:resource_tracker:UserWarning"
FEW_IMAGES = 256  # below this, starting worker processes costs more than it saves


def resolve_device(name: str) -> torch.device:
    """Turn auto, cpu or cuda into a device. Raises UserError where CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine or this build of torch has no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def resolve_workers(workers: int | None, images: int) -> int:
    """The number asked for; else none for few images and up to eight for many."""
    if workers is not None:
        return workers
    return 0 if images < FEW_IMAGES else min(8, os.cpu_count() or 1)


def worker_context(workers: int) -> str | None:
    """Return how processes that decode images are started; None without any. They ignore Ctrl-C: the main process ends them."""
    if not workers:
        return None
    if threading.current_thread() is threading.main_thread() and (before := signal.getsignal(signal.SIGINT)) is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the server, and so every worker, inherits
        sys.warnoptions.append(QUIET)  # which silences their helper's warnings about semaphores that a second Ctrl-C left to it
        try:
            forkserver.ensure_running()
        finally:
            sys.warnoptions.remove(QUIET)
            signal.signal(signal.SIGINT, before)
    return "forkserver"


def describe(device: torch.device) -> str:
    """The device in words, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"


def peak_memory_mb(device: torch.device) -> int:
    """The most memory this process has held, MiB; on a GPU the device's, allocated by torch."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
