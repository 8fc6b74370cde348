"""The optimiser's side of a step: parameter groups, clipping, the frozen last layer, the teacher's moving average.

Source: DINO (Caron et al., ICCV 2021), official code, which CrOC and CrIBo share.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LAST_LAYER = "last_layer"


def parameter_groups(modules: Iterable[nn.Module]) -> list[dict[str, object]]:
    """Two groups: with weight decay, and without it (biases and all that is one-dimensional).

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
    """The gradients that there are, in the order of the parameters."""
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def clip_each(grads: list[Tensor], limit: float) -> Tensor:
    """Scale each gradient tensor that is longer than `limit` to that length, by itself (not by the norm of all together).

    limit 0 clips nothing. Returns the norms before clipping, `[tensors]`: one that is not finite tells of a broken step.
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
    """teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter (DINO, section 3.1)."""
    torch._foreach_lerp_(list(teacher.parameters()), [p.detach() for p in student.parameters()], 1.0 - momentum)
