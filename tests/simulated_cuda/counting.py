"""What an operation costs: a wait, a copy or a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from simulated_cuda.checks import writes
from simulated_cuda.host_memory import host
from simulated_cuda.report import KERNEL, QUEUED, TO_DEVICE, TO_HOST, WAIT, current
from simulated_cuda.tables import COPYING, INDEXING, WAITS, WITHOUT_KERNEL


def count_operation(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], on_device: bool) -> str:
    """Count what an operation costs, and return its kind; the caller counts waits and copies to the host."""
    if name in COPYING:
        kind = _kind_of_copy(name, args, kwargs, on_device)
        if kind != TO_HOST:
            current.report.note(kind, name)
        return kind
    starts = name not in WITHOUT_KERNEL and not is_view(func)
    if starts:
        current.report.note(KERNEL, name)
    if name in INDEXING:
        for index in args[1]:
            if isinstance(index, Tensor) and not index.is_cuda:
                current.report.note(TO_DEVICE, f"{name} (index)")
        if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
            return WAIT
    reads = name in WAITS and not (name == "repeat_interleave" and kwargs.get("output_size") is not None)
    return WAIT if reads and _has_cuda(args) else KERNEL


def queues(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a copy between host and device is queued, so that the host does not wait for it."""
    if not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])):
        return False
    in_host = [value for value in args[:2] if isinstance(value, Tensor) and not value.is_cuda]
    return all(host.without_wait(tensor) for tensor in in_host)  # `.to("cpu")` makes page-locked memory itself


def _kind_of_copy(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], on_device: bool) -> str:
    source = args[0] if name == "_to_copy" else args[1]
    into_device = on_device if name == "_to_copy" else args[0].is_cuda
    if source.is_cuda and into_device:
        return KERNEL
    if queues(name, args, kwargs):
        return QUEUED
    return TO_DEVICE if into_device else TO_HOST


def is_view(func: Any) -> bool:
    """Return whether an operation returns a view of its argument."""
    returns = func._schema.returns
    return bool(returns) and returns[0].alias_info is not None and not writes(returns[0])


def _has_cuda(args: Sequence[Any]) -> bool:
    return any(isinstance(value, Tensor) and value.is_cuda for value in args)
