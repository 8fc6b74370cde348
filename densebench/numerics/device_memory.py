"""The memory of a GPU that is still to be had."""

from __future__ import annotations

import torch


def free_bytes(device: torch.device) -> int:
    """Return how many bytes can be allocated on a GPU: what nobody uses, and what torch holds of it for later.

    After a training, or an evaluation before this one, torch may hold nearly all of the memory, so that the driver says there is
    hardly any; what is free in there is used first, and given back where it does not fit.
    """
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
