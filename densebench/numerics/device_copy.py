"""Copies of tensors from host to GPU for which the host does not wait.

`tensor.to("cuda")` of pageable memory makes the host wait, since the driver must copy it to page-locked memory first. Here
torch's own page-locked memory is used, which it keeps for later; the copy to the GPU is queued behind earlier work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

PIECE = 2**26  # bytes of page-locked memory in one copy: a larger tensor is copied in pieces


def on_device(tensor: Shaped[Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """Return a tensor on a device: itself where it is there already."""
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
    """Return tensors of one dtype concatenated along the first dimension, on a device, by a single copy."""
    if device.type != "cuda" or parts[0].is_cuda:
        return torch.cat(list(parts)).to(device)
    staged = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype, pin_memory=True)
    torch.cat(list(parts), out=staged)
    return staged.to(device, non_blocking=True)
