"""What a GPU refuses, raised with torch's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simulated_cuda.tables import COPYING, INDEXING, NONDETERMINISTIC, SCALARS, UNSUPPORTED


def check_operation(func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
    """Raise for an aten operation that CUDA would refuse. tensors: all that are among its arguments."""
    there = [tensor for tensor in tensors if tensor.is_cuda]
    if there and len(there) < len(tensors) and name not in COPYING:
        _check_devices(func, name, args, [tensor for tensor in tensors if not tensor.is_cuda])
    if there and there[0].dtype in UNSUPPORTED.get(name, ()):
        raise NotImplementedError(f'"{name}_cuda" not implemented for {there[0].dtype}')
    if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
        weighted_bincount = name == "bincount" and len(args) > 1 and args[1] is not None
        if name in NONDETERMINISTIC or weighted_bincount:
            raise RuntimeError(f"{name}_cuda does not have a deterministic implementation")


def check_generator(generator: torch.Generator | None) -> None:
    """Raise for a draw on the device by a generator of the CPU."""
    if generator is not None and generator.device.type == "cpu":
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def _check_devices(func: Any, name: str, args: Sequence[Any], apart: list[Tensor]) -> None:
    """Raise where tensors on the CPU (`apart`) may not take part in an operation with CUDA tensors."""
    if name in INDEXING:
        if not args[0].is_cuda:
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        values = args[2] if "index_put" in name else None  # the indices may be the CPU's, the values may not
        apart = [values] if values is not None and not values.is_cuda else []
    written = [value for value, own in zip(args, func._schema.arguments, strict=False) if writes(own)]
    scalars_may_mix = torch.Tag.pointwise in func.tags or name in SCALARS
    into_cpu = any(isinstance(value, Tensor) and not value.is_cuda for value in written)
    if into_cpu or any(tensor.ndim or not scalars_may_mix for tensor in apart):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu! (in aten::{name})")


def writes(own: Any) -> bool:
    """Return whether an operation writes into one of its arguments, or returns one that it has written into."""
    return own.alias_info is not None and own.alias_info.is_write
