"""Scoring in the middle of somebody's training: all that torch, numpy and Python share in a process is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from densebench.numerics.seeds import random_states


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run the block as in a fresh process, and restore everything afterwards, so that a training goes on as without the block.

    In the block gradients can be taken, autocast, inference mode, a default device and deterministic algorithms are off, and
    float32 is the default. Afterwards the states of all random generators (torch's on the CPU and on GPUs, numpy's, Python's) and
    the switches of torch are as they were.
    """
    with ExitStack() as stack:
        stack.enter_context(random_states())
        stack.enter_context(_switches())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _switches() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    default, deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before
        torch.set_default_dtype(default)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
