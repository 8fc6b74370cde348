"""Torch's modes that intercept every operation, and every function that a program calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from simulated_cuda.host_memory import host
from simulated_cuda.report import WAIT, current
from simulated_cuda.tables import CHECKED_ON_CPU, FLOAT32_UNDER_AUTOCAST, HALVES
from simulated_cuda.tensors import DEVICE, Cuda, operate, requested, waited
from simulated_cuda.trees import changed, tensors_in


class _Operations(TorchDispatchMode):
    """Carries out every operation, also those that make tensors on the device from nothing."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # its guard would take as long as the operation
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return operate(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Notes with which tensors a function is called, since for C++ all of them are on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "_has_compatible_shallow_copy_type":  # asked when a module moves: its parameters become other tensors
            return False
        there = any(isinstance(value, Cuda) for value in tensors_in((args, kwargs)))
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = DEVICE
        if there and torch.is_autocast_enabled("cpu"):
            args, kwargs = _cast(name, args, kwargs)
        if name in ("to", "cuda") and args and isinstance(args[0], Tensor) and not isinstance(args[0], Cuda):
            device, dtype, non_blocking = requested(args[1:], kwargs) if name == "to" else (DEVICE, None, False)
            if device is not None and device.type == "cuda":
                how = {"dtype": dtype or args[0].dtype, "device": DEVICE, "non_blocking": non_blocking}
                return torch.ops.aten._to_copy(args[0], **how)
        if there and name == "one_hot" and [*args[1:], *kwargs.values()] in ([], [-1]):
            waited(WAIT, name)  # for the largest number
        is_pinned = kwargs.pop("pin_memory", False)
        with current.state.inside(there, checks=there and name in CHECKED_ON_CPU):
            result = func(*args, **kwargs)
        return _pinned(result) if is_pinned else result


def _cast(name: str, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the arguments of a function in float32 where CUDA's autocast runs it so."""
    if name == "binary_cross_entropy":
        raise RuntimeError("torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.")
    if name not in FLOAT32_UNDER_AUTOCAST or kwargs.get("dtype") is not None:
        return args, kwargs
    return changed((args, kwargs), Cuda, lambda value: value.float() if value.dtype in HALVES else value)


def _pinned(tensor: Tensor) -> Tensor:
    if tensor.is_cuda:
        raise RuntimeError("Only dense CPU tensors can be pinned")
    return host.lock(tensor)


@contextmanager
def listening() -> Iterator[None]:
    """Intercept torch in this thread during the block."""
    with _Operations(), _Functions():
        yield
