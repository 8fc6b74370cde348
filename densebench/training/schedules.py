"""Schedules: one value an iteration, as float64 arrays that are known before the first step.

Source: DINO (Caron et al., ICCV 2021) and the codes that descend from it (CrOC, CrIBo): linear warm-up that reaches the base
value, then a cosine that starts at the base value and, sampled at 0, 1/n, ..., (n-1)/n, never reaches its end.
"""

from __future__ import annotations

import numpy as np


def cosine(base: float, end: float, steps: int, warmup: int = 0, start: float = 0.0) -> np.ndarray:
    """Warm-up from `start` to `base` over `warmup` steps (both ends taken), then a cosine towards `end`: float64 [steps].

    A warm-up that is longer than the run is cut off where the run ends.
    """
    rising = np.linspace(start, base, warmup) if warmup else np.zeros(0)
    count = max(steps - warmup, 0)
    falling = end + 0.5 * (base - end) * (1 + np.cos(np.pi * np.arange(count) / max(count, 1)))
    return np.concatenate([rising, falling])[:steps]


def stairs(start: float, end: float, steps: int, per_epoch: int, epochs: int) -> np.ndarray:
    """From `start` to `end` in equal stairs, one an epoch, over the first `epochs` epochs; `end` from there: float64 [steps].

    This is how the teacher's temperature warms up in DINO.
    """
    levels = np.linspace(start, end, epochs) if epochs else np.zeros(0)
    epoch = np.arange(steps) // max(per_epoch, 1)
    return np.append(levels, end)[np.minimum(epoch, epochs)]
