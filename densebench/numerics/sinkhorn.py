"""Entropic optimal transport by a fixed number of Sinkhorn iterations, for many small problems at once.

Source: Cuturi, Sinkhorn Distances, NeurIPS 2013, as CrOC (equation 11) and CrIBo use it: five iterations at sharpness 20, the
columns last. That is deliberately not converged: column marginals are exact, row marginals are not, and a converged plan would
give other clusters.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def sinkhorn(
    cost: Float[Tensor, "p n k"],
    rows: Float[Tensor, "p n"],
    columns: Float[Tensor, "p k"],
    sharpness: float = 20.0,
    iterations: int = 5,
) -> Float[Tensor, "p n k"]:
    """Return the transport plans of p problems:

        plan = exp(-sharpness cost)
        repeat: plan *= rows / (sum of each row);  plan *= columns / (sum of each column)

    Costs should lie in [0, 1] (`rescaled` maps them there), so that exp does not underflow; 0 / 0 counts as 0.
    """
    plan = torch.exp(-sharpness * cost)
    tiny = torch.finfo(plan.dtype).tiny
    plan = plan / plan.sum(dim=(1, 2), keepdim=True).clamp(min=tiny)
    for _ in range(iterations):
        plan = plan * (rows / plan.sum(dim=2).clamp(min=tiny))[:, :, None]
        plan = plan * (columns / plan.sum(dim=1).clamp(min=tiny))[:, None, :]
    return plan


def rescaled(cost: Float[Tensor, "p n k"], group: int = 0) -> Float[Tensor, "p n k"]:
    """Return costs mapped to [0, 1] by one minimum and one maximum per group of `group` consecutive problems; 0: one for all.

    The official codes take the extremes over all images (and heads) on a GPU, so that an image's clusters depend on its
    batch-mates.
    """
    flat = cost.flatten(1)
    low, high = extremes(flat.amin(dim=1), group, smallest=True), extremes(flat.amax(dim=1), group, smallest=False)
    return (cost - low[:, None, None]) / (high - low).clamp(min=1e-12)[:, None, None]


def extremes(values: Float[Tensor, " p"], group: int, *, smallest: bool) -> Float[Tensor, " p"]:
    """Return, for each entry, the smallest (or largest) of its group of consecutive entries; the last group may be smaller."""
    count = len(values)
    size = min(group or count, count)
    fill = torch.inf if smallest else -torch.inf
    padded = torch.nn.functional.pad(values, (0, -count % size), value=fill).view(-1, size)
    extreme = padded.amin(dim=1) if smallest else padded.amax(dim=1)
    return extreme.repeat_interleave(size)[:count]
