"""The learning rate of every parameter at every iteration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
TRUNK = "backbone.layers.trunk."
EMBEDDING = re.compile(r"\.(pos_embed|patch_embed|cls_token|reg_token|mask_token)(\.|$)")
POSITIONS = re.compile(r"\.(pos_embed|cls_token|reg_token|mask_token)$")
WARMUP_FROM = 0.001  # share of the learning rate at which warm-up begins
FALL = 0.1


def groups(detector: nn.Module, depth: int, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameters by the factor of their learning rate (`scale`) and their weight decay.

    Block i of the backbone's `depth` has the factor layer_decay^(depth - i), what comes before the blocks
    layer_decay^(depth + 1), all else 1 (ViTDet). Norms, positions and tokens are not decayed; biases are, as in the official
    codes.
    """
    plain = {id(p) for module in detector.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            still = id(parameter) in plain or POSITIONS.search(name)
            key = layer_decay ** _below(name, depth), 0.0 if still else weight_decay
            found.setdefault(key, []).append(parameter)
    return [{"params": own, "scale": scale, "weight_decay": decay} for (scale, decay), own in sorted(found.items(), key=_key)]


def _key(entry: tuple[tuple[float, float], Any]) -> tuple[float, float]:
    return entry[0]


def _below(name: str, depth: int) -> int:
    """How many layers a parameter lies below the heads."""
    if not depth or not name.startswith(TRUNK):
        return 0
    if found := re.search(r"\.blocks\.(\d+)\.", name):
        return depth - int(found[1])
    return depth + 1 if EMBEDDING.search(name) else 0


def rate_at(iteration: int, iterations: int, warmup: int, steps: Sequence[float]) -> float:
    """The share of the learning rate at an iteration from 0: a linear rise from a thousandth, then a tenth after each step.

    steps: shares of the run. The rise lasts `warmup` iterations, a tenth of the run at most.
    """
    falls = sum(iteration >= round(step * iterations) for step in steps)
    rise = min(warmup, iterations // 10)
    risen = WARMUP_FROM + (1 - WARMUP_FROM) * iteration / rise if iteration < rise else 1.0
    return risen * FALL**falls
