"""Peak memory of a part of a benchmark."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import torch


def settle(device):
    """Begin a new peak; bytes held now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if sys.platform != "linux":
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # give freed blocks back, or the next part takes them unseen
    Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device):
    """The most bytes held since: what PyTorch allocated on a GPU, else the process's resident memory (Linux only)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform != "linux":
        return float("nan")
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])
