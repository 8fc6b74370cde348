"""The 15 corruptions: milliseconds for one picture, ours beside a restatement of how the reference goes about it, in one run.

The restatement convolves the disk tap by tap, shuffles pixels in a Python loop, rolls whole copies for motion, zooms with
scipy's general zoom and bends three axes at once. Where it does nothing else than ours (noise, fog, codec), ours stands alone.
Both get the same random numbers; pixels must agree within a grey level.

    python tests/benchmarks/bench_corruptions.py [--size 500x375] [--level 3] [--times 3]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import convolve, gaussian_filter, map_coordinates, zoom

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from corruption_cases import photographs

from densebench.numerics.corruptions import CORRUPTIONS, blur, corrupt, digital


def defocus(picture, level, generator):
    kernel = blur.disk(*blur.DEFOCUS[level - 1])[..., None]
    return (np.clip(convolve(picture / 255.0, kernel.astype(float), mode="mirror"), 0, 1) * 255).astype(np.uint8)


def glass(picture, level, generator):
    sigma, step, times = blur.GLASS[level - 1]
    values = (gaussian_filter(picture / 255.0, (sigma, sigma, 0), mode="nearest") * 255).astype(np.uint8)
    height, width = values.shape[:2]
    offsets = generator.integers(-step, step, size=(times, height - 2 * step, width - 2 * step, 2))
    for once in offsets:
        for i, row in enumerate(range(height - step, step, -1)):
            for j, column in enumerate(range(width - step, step, -1)):
                right, down = once[i, j]
                values[row, column] = values[row + down, column + right]
    return (np.clip(gaussian_filter(values / 255.0, (sigma, sigma, 0), mode="nearest"), 0, 1) * 255).astype(np.uint8)


def rolled(values, right, down):
    for axis, steps in ((1, right), (0, down)):
        values = np.swapaxes(np.roll(values, steps, axis), 0, axis).copy()
        if steps > 0:
            values[:steps] = values[steps]
        elif steps < 0:
            values[steps:] = values[steps - 1]
        values = np.swapaxes(values, 0, axis)
    return values


def motion(picture, level, generator):
    radius, sigma = blur.MOTION[level - 1]
    angle = math.radians(generator.uniform(-45, 45))
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    total = np.zeros(picture.shape)
    for step, weight in enumerate(weights / weights.sum()):
        right, down = (-math.ceil(step * part - 0.5) for part in (math.cos(angle), math.sin(angle)))
        total += weight * rolled(picture, right, down)
    return np.clip(total, 0, 255).astype(np.uint8)


def zooming(picture, level, generator):
    values = (picture / 255.0).astype(np.float32)
    factors, total = np.arange(1, *blur.ZOOM[level - 1]), np.zeros_like(values)
    height, width = values.shape[:2]
    for factor in factors.tolist():
        rows, columns = math.ceil(height / factor), math.ceil(width / factor)
        top, left = (height - rows) // 2, (width - columns) // 2
        total += zoom(values[top : top + rows, left : left + columns], (factor, factor, 1), order=1)[:height, :width]
    return (np.clip((values + total) / (len(factors) + 1), 0, 1) * 255).astype(np.uint8)


def elastic(picture, level, generator):
    values, (height, width) = picture.astype(np.float32) / np.float32(255), picture.shape[:2]
    reach, moved = height * 0.005, []
    for _ in range(2):
        drawn = generator.uniform(-reach, reach, size=(height, width))
        smooth = gaussian_filter(drawn, (height * 0.01, width * 0.01), mode="reflect", truncate=3)
        moved.append((smooth * digital.ELASTIC[level - 1]).astype(np.float32)[..., None])
    rows, columns, channels = np.mgrid[:height, :width, :3]
    places = [(rows + moved[1]).ravel(), (columns + moved[0]).ravel(), channels.ravel()]
    return (np.clip(map_coordinates(values, places, order=1, mode="reflect").reshape(picture.shape), 0, 1) * 255).astype(np.uint8)


NAIVE = {
    "defocus-blur": defocus, "glass-blur": glass, "motion-blur": motion, "zoom-blur": zooming, "elastic-transform": elastic,
}  # fmt: skip


def timed(work, times):
    """The shortest of several times in milliseconds, and the result."""
    best, result = math.inf, None
    for _ in range(times):
        started = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - started)
    return 1000 * best, result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="500x375")
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    small = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    picture = np.kron(small, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)
    level, total = arguments.level, 0.0
    print(f"{'corruption':18} {'ours, ms':>9} {'naive, ms':>10} {'ratio':>6} {'differs by':>10}")
    for name in CORRUPTIONS:
        ours, found = timed(
            lambda name=name: corrupt(picture, name, level, np.random.default_rng(1), photographs()), arguments.times
        )
        total += ours
        if name not in NAIVE:
            print(f"{name:18} {ours:9.1f}")
            continue
        naive, expected = timed(lambda name=name: NAIVE[name](picture, level, np.random.default_rng(1)), 1)
        apart = int(np.abs(found.astype(int) - expected).max())
        print(f"{name:18} {ours:9.1f} {naive:10.1f} {naive / ours:6.1f} {apart:10}")
        if apart > 1:
            raise SystemExit(f"{name} differs by {apart} grey levels")
    print(f"{'together':18} {total:9.1f}")


if __name__ == "__main__":
    main()
