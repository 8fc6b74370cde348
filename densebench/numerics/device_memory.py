"""The free memory of a GPU."""

from __future__ import annotations

import torch


def free_bytes(device: torch.device) -> int:
    """Return how many bytes can be allocated on a GPU: those that the driver calls free, and those that torch has cached.

    After a training or an evaluation, torch's allocator may hold nearly all of the memory, so that the driver reports hardly any
    as free. Allocations use the cache first, and torch returns it to the driver where it does not fit them.
    """
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
