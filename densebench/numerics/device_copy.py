"""Tensors of the host on a GPU, copied while the host goes on.

`tensor.to("cuda")` of ordinary memory makes the host wait, since the driver must stage it first. Here it is staged in page-locked
memory, which torch keeps and uses again; the copy is queued behind the GPU's earlier work and the host does not wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

PIECE = 2**26  # bytes that are staged at once: bounds the page-locked memory


def on_device(tensor: Shaped[Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """Return a tensor on a device; one that is there already is returned as it is."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    if tensor.nbytes <= PIECE:
        return tensor.pin_memory().to(device, non_blocking=True)
    copied = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    rows = max(1, PIECE * len(tensor) // tensor.nbytes)
    for part, target in zip(tensor.split(rows), copied.split(rows), strict=True):
        target.copy_(part.pin_memory(), non_blocking=True)
    return copied


def joined_on_device(parts: Sequence[Shaped[Tensor, "_ *rest"]], device: torch.device) -> Shaped[Tensor, "n *rest"]:
    """Return tensors of one type one after the other on a device, by a single copy."""
    if device.type != "cuda" or parts[0].is_cuda:
        return torch.cat(list(parts)).to(device)
    staged = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype, pin_memory=True)
    torch.cat(list(parts), out=staged)
    return staged.to(device, non_blocking=True)
