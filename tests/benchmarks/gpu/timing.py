"""Measures of a call: seconds, floating-point operations, memory, launches and waits."""

from __future__ import annotations

import time
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

LAUNCHES = {"cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaGraphLaunch"}
WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"}


def settle(bench):
    """Wait until the device has done everything."""
    if bench.cuda:
        torch.cuda.synchronize()


def seconds(bench, work, times=5, before=2):
    """The median time of a call, after some that do not count."""
    for _ in range(before):
        work()
    settle(bench)
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        settle(bench)
        found.append(time.perf_counter() - began)
    return sorted(found)[len(found) // 2]


def flop(work):
    """Floating-point operations of the products, convolutions and attentions in a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def memory(bench):
    """The most that torch has allocated on the GPU since the part began, as the end of a note; "" on a CPU."""
    return f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if bench.cuda else ""


def profile(bench, work):
    """Milliseconds in which the GPU was busy, launches, waits, and the four kernels that took the most time; on a CPU nothing."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    there = [ProfilerActivity.CUDA] if torch.version.cuda else []
    with torch_profile(activities=[ProfilerActivity.CPU, *there]) as seen:
        work()
        settle(bench)
    events = seen.key_averages()
    kernels = sorted(events, key=lambda event: -event.self_device_time_total)
    return {
        "busy": sum(event.self_device_time_total for event in kernels) / 1e3,
        "launches": sum(event.count for event in events if event.key in LAUNCHES),
        "waits": sum(event.count for event in events if event.key in WAITS),
        "top": "; ".join(f"{event.key[:48]} {event.self_device_time_total / 1e3:.1f} ms" for event in kernels[:4]),
    }


@contextmanager
def precision(name):
    """fp32 products of a block in true fp32 (highest), or in TF32 where the device has it (high)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
