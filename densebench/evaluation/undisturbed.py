"""Scoring in the middle of somebody's program: all that torch, numpy and Python share in a process is left as it was."""

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
        stack.enter_context(plain())
        yield


@contextmanager
def plain() -> Iterator[None]:
    """Run the block so that numbers are those of a fresh process: what the caller has switched on for its own arithmetic is off.

    That is autocast, inference mode, a default device and a default of float64. They are as they were afterwards.
    """
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(torch.float32)
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
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(False)
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
