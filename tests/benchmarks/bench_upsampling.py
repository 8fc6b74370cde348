"""Filters that make grids of features finer: through the indicators of cells, against filtering every channel.

Run: python tests/benchmarks/bench_upsampling.py [--device cuda] [--side 448] [--dim 384] [--stride 14]. The naive way is the
definition: features are upsampled bilinearly, and every channel is filtered at full size. If kornia is installed, its joint
bilateral filter is timed on the upsampled features too.
"""

from __future__ import annotations

import argparse
import functools
import time

import torch
from measuring import peak, settle

from densebench.numerics import upsampling


def timed(work, device):
    """The result of some work, its seconds (the faster of two runs) and the most bytes that it took."""
    before, seconds = settle(device), []
    for _ in range(2):
        started = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return result, min(seconds), peak(device) - before


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--stride", type=int, default=14)
    given = parser.parse_args()
    device, grid = torch.device(given.device), given.side // given.stride
    features = torch.randn(1, given.dim, grid, grid, device=device)
    print(f"{given.dim} channels, {grid} x {grid} cells, {torch.get_num_threads()} threads, {device}")
    for factor in (2, given.stride // 2):
        size = (grid * factor, grid * factor)
        guidance = torch.rand(1, 3, *size, device=device)
        filters = {
            "joint bilateral": (
                functools.partial(upsampling.joint_bilateral_filter, radius=factor, sigma_space=0.75 * factor, sigma_colour=0.1),
                factor,
            ),
            "guided": (functools.partial(upsampling.guided_filter, radius=factor, eps=1e-3), 2 * factor),
        }
        for name, (apply, reach) in filters.items():
            fast, seconds, taken = timed(functools.partial(upsampling.through_cells, apply, reach, features, guidance), device)
            direct, naive, more = timed(lambda: apply(upsampling.bilinear(features, size), guidance), device)  # noqa: B023
            torch.testing.assert_close(fast, direct, rtol=1e-3, atol=1e-3)
            print(
                f"{name:16} to {size[0]} x {size[1]}: {1000 * seconds:8.0f} ms, {taken / 2**20:6.0f} MiB; every channel "
                f"{1000 * naive:8.0f} ms, {more / 2**20:6.0f} MiB: {naive / seconds:.1f} x"
            )
        kornia(features, guidance, size, factor, device)


def kornia(features, guidance, size, factor, device):
    """Time kornia's filter, where it is installed."""
    try:
        from kornia.filters import joint_bilateral_blur
    except ImportError:
        return
    side, sigma = 2 * factor + 1, (0.75 * factor, 0.75 * factor)
    large = upsampling.bilinear(features, size)
    _, seconds, taken = timed(lambda: joint_bilateral_blur(large, guidance, (side, side), 0.1, sigma, "reflect", "l2"), device)
    print(f"kornia's joint bilateral to {size[0]} x {size[1]}: {1000 * seconds:8.0f} ms, {taken / 2**20:6.0f} MiB")


if __name__ == "__main__":
    main()
