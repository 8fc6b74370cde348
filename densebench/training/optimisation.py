"""Optimisation: schedules, parameter groups, clipping, the frozen last layer, the teacher's moving average.

Source: DINO (Caron et al., ICCV 2021), official code, which CrOC and CrIBo share. A schedule is a float64 array with
one value per step: a linear warm-up to the base value, then a cosine that starts at the base value and is sampled at 0, 1/n, ...,
(n-1)/n, so that it never reaches its end value.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

LAST_LAYER = "last_layer"


def cosine(base: float, end: float, steps: int, warmup: int = 0, start: float = 0.0) -> np.ndarray:
    """Return a warm-up from `start` to `base` over `warmup` steps (both included), then a cosine towards `end`: float64 [steps].

    A warm-up that is longer than the run is cut off at its end.
    """
    rising = np.linspace(start, base, warmup) if warmup else np.zeros(0)
    count = max(steps - warmup, 0)
    falling = end + 0.5 * (base - end) * (1 + np.cos(np.pi * np.arange(count) / max(count, 1)))
    return np.concatenate([rising, falling])[:steps]


def stairs(start: float, end: float, steps: int, per_epoch: int, epochs: int) -> np.ndarray:
    """Return a staircase with one equal step per epoch from `start` to `end` over `epochs` epochs, then `end`: float64 [steps].

    The teacher's temperature warms up in this way in DINO.
    """
    levels = np.linspace(start, end, epochs) if epochs else np.zeros(0)
    epoch = np.arange(steps) // max(per_epoch, 1)
    return np.append(levels, end)[np.minimum(epoch, epochs)]


def parameter_groups(modules: Iterable[nn.Module]) -> list[dict[str, object]]:
    """Return two groups of parameters: with weight decay, and without it (biases and all one-dimensional parameters).

    Position tables, class tokens and the magnitudes of weight-normed layers (two-dimensional) are decayed, as the official
    code does. Only the first group follows the weight-decay schedule.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                (plain if name.endswith(".bias") or parameter.ndim == 1 else decayed).append(parameter)
    return [{"params": decayed, "decayed": True}, {"params": plain, "decayed": False, "weight_decay": 0.0}]


def gradients(module: nn.Module) -> list[Tensor]:
    """Return the gradients of those parameters that have one, in the order of the parameters."""
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def clip_each(grads: list[Tensor], limit: float) -> Tensor:
    """Clip each gradient tensor to a norm of `limit` in place, separately, and return the norms before clipping, `[tensors]`.

    limit: 0 clips nothing. A norm is not finite where its gradient is not.
    """
    if not grads:
        return torch.zeros(0)
    norms = torch.stack(torch._foreach_norm(grads))
    if limit > 0:
        scales = (limit / (norms + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, list(scales.to(grads[0].dtype).unbind()))
    return norms


def freeze_last_layer(module: nn.Module) -> None:
    """Drop the gradients of the prototype layers, so that this step leaves them as they are (weight decay included)."""
    for name, parameter in module.named_parameters():
        if LAST_LAYER in name:
            parameter.grad = None


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Update the teacher in place: teacher = momentum * teacher + (1 - momentum) * student (DINO, section 3.1)."""
    torch._foreach_lerp_(list(teacher.parameters()), [p.detach() for p in student.parameters()], 1.0 - momentum)
