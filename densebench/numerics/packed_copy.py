"""Arrays of the host on a GPU, all of them in one copy.

A copy to a GPU costs the host some 10 us whatever its size, and out of ordinary memory the host waits for it. So what a step
needs is written into one piece of page-locked memory and copied once; each array is a part of the copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

ALIGNED = 16  # bytes: where an array may begin


def packed_on_device(arrays: Mapping[Any, np.ndarray], device: torch.device) -> dict[Any, Tensor]:
    """Return arrays as tensors on a device, under the same names; the host does not wait for the copy."""
    starts, end = {}, 0
    for name, array in arrays.items():
        starts[name] = end
        end += -(-array.nbytes // ALIGNED) * ALIGNED
    buffer = torch.empty(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
    host = buffer.numpy()
    for name, array in arrays.items():
        host[starts[name] : starts[name] + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = buffer.to(device, non_blocking=True)
    return {
        name: there[starts[name] : starts[name] + array.nbytes].view(torch.from_numpy(array[:0]).dtype).view(array.shape)
        for name, array in arrays.items()
    }
