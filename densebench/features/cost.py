"""What a forward pass of a backbone costs: images a second on this device, floating-point operations, memory of the weights."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from densebench.backbones.backbone import Backbone
from densebench.features.extract import autocast

PASSES = 40
BUDGET = 1.5  # seconds that the passes may take together
LEAST = 5
"""Passes that are made however long they take: on a busy machine, of two passes both may be several times too slow."""


@dataclass(frozen=True)
class Cost:
    """What a backbone costs on images of `size` px, one at a time.

    images_per_second: of its features alone, by the fastest of several passes. gflop: of one image, a multiplication and an
    addition counted as two operations; 0 where torch can count none. memory_mb: MiB of the weights on a CPU; on a GPU the most
    that torch held there during a pass.
    """

    size: int
    dim: int
    stride: int
    params: int
    images_per_second: float
    gflop: float
    memory_mb: float


def cost_of(backbone: Backbone, size: int, device: torch.device) -> Cost:
    """Measure forward passes of one image of `size` x `size` px; the backbone is moved to the device.

    What else runs on the machine can only slow a pass down, so the fastest counts, after one that warms up.
    """
    backbone.to(device)
    image = torch.zeros(1, 3, size, size, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode(), autocast(device, "fp32"):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # others are not counted on every device
            backbone(image)
        seconds: list[float] = []
        while len(seconds) < LEAST or (len(seconds) < PASSES and sum(seconds) < BUDGET):
            began = _now(device)
            backbone(image)
            seconds.append(_now(device) - began)
    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*backbone.trunk.parameters(), *backbone.trunk.buffers()))
    gflop = counter.get_total_flops() / 1e9
    memory = (on_gpu or weights) / 2**20
    return Cost(size, backbone.dim, backbone.stride, backbone.params, 1 / max(min(seconds[1:]), 1e-9), gflop, memory)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
