"""The limits of the machine, which the other parts cannot exceed."""

from __future__ import annotations

import torch
from timing import precision, seconds


def machine(bench):
    cudnn = torch.backends.cudnn.allow_tf32
    bench.add("machine", "TF32 by default: products, convolutions", f"{torch.backends.cuda.matmul.allow_tf32}, {cudnn}")
    products(bench)
    memory(bench)
    copies(bench)
    if bench.cuda:
        host(bench)


def products(bench):
    side = bench.size(8192, 256)
    a, b = (torch.randn(side, side, device=bench.device) for _ in range(2))
    halves = a.bfloat16(), b.bfloat16()
    cases = {"fp32": ("highest", (a, b), 50), "tf32": ("high", (a, b), 400), "bf16": ("highest", halves, 700)}
    for name, (kind, (one, other), expected) in cases.items():
        with precision(kind):
            rate = 2 * side**3 / seconds(bench, lambda one=one, other=other: one @ other) / 1e12
        bench.ceilings[name] = rate
        bench.add("machine", f"product of {side} x {side} matrices, {name}", rate, "TFLOP/s", expected)


def memory(bench):
    data = torch.empty(bench.size(2**30, 2**20), device=bench.device)
    other = torch.empty_like(data)
    rate = 8 * data.numel() / seconds(bench, lambda: other.copy_(data)) / 1e12
    bench.ceilings["TB/s"] = rate
    bench.add("machine", "copy on the device, bytes read and written", rate, "TB/s", 4.0)


def copies(bench):
    pageable = torch.zeros(bench.size(315_000_000, 10**6), dtype=torch.uint8)
    rate = pageable.numel() / seconds(bench, lambda: pageable.to(bench.device, copy=True), 3, 1) / 1e9
    bench.add("machine", "to the device, pageable: 315 MB, a batch of 256 COCO images", rate, "GB/s", 10)
    if bench.cuda:
        pinned = pageable.pin_memory()
        rate = pinned.numel() / seconds(bench, lambda: pinned.to(bench.device, non_blocking=True), 3, 1) / 1e9
        bench.add("machine", "to the device, page-locked", rate, "GB/s", 50)


def host(bench):
    """Measure the host's time for a wait and for a launch."""
    one = torch.zeros(1, device=bench.device)
    wait = seconds(bench, lambda: [bool(one[0] > 0) for _ in range(100)]) / 100
    bench.add("machine", "one wait of the host for an idle device", wait * 1e6, "us", 20)
    launch = seconds(bench, lambda: [one.add_(1) for _ in range(1000)]) / 1000
    bench.add("machine", "one launch", launch * 1e6, "us", 4)
