"""Correctness: scores of every protocol and figures of every method, of small size, beside those of the CPU.

A GPU adds in another order than a CPU, so a score may differ in its last digits where a pixel lies between two classes; a
difference of whole points is an error.
"""

from __future__ import annotations

import copy
import math
import os
import traceback
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from gpu_libraries import libraries_on
from table import place
from timing import precision
from tiny_methods import assembled
from tiny_protocols import tiny

from densebench import catalog
from densebench.evaluation.protocol import Run
from densebench.numerics import crops
from densebench.numerics.arithmetic import float32
from densebench.training import augmentation, loop

POINTS = 0.5  # the largest difference of a score that rounding explains: one pixel in 200 of these small pictures
SHARE = 0.01  # of a loss, after three steps in float32
STEPS = 3


def right(bench):
    first, others = [], []
    for name, entry in catalog.entries("protocols").items():
        for part in (entry, *entry.others):
            first.append((name, part.presets[0]))
            others += [(name, preset) for preset in part.presets[1:]]
    for name, preset in first:
        _beside(bench, f"{name}/{preset}", POINTS, lambda device, name=name, preset=preset: _scores(bench, name, preset, device))
    for method in catalog.entries("methods"):
        _beside(bench, f"pretrain {method}", SHARE, lambda device, method=method: _figures(method, device))
    for name, preset in others if not bench.small else []:
        if bench.left() < 0.75 * bench.budget:
            return
        _beside(bench, f"{name}/{preset}", POINTS, lambda device, name=name, preset=preset: _scores(bench, name, preset, device))


def _beside(bench, what, limit, numbers):
    """Add a row with the largest difference between the device and the CPU; one above the limit is a failure."""
    try:
        with precision("highest"):
            on_cpu, here = numbers("cpu"), numbers(bench.device.type)
    except Exception as error:
        traceback.print_exc()
        bench.add("right", f"FAILED: {what}: {type(error).__name__}", place(error), note=" ".join(str(error).split())[:160])
        return
    if on_cpu.keys() != here.keys():
        bench.add("right", f"FAILED: {what}: other scores than on a CPU", str(sorted(map(str, on_cpu.keys() ^ here.keys()))[:2]))
        return
    gaps = {key: abs(on_cpu[key] - here[key]) for key in on_cpu if math.isfinite(on_cpu[key]) or math.isfinite(here[key])}
    worst = max(gaps, key=gaps.get)
    wrong = "" if gaps[worst] <= limit else "FAILED: "
    where = " ".join(map(str, worst))
    gap = f"{where}: {on_cpu[worst]:.4f} on a CPU, {here[worst]:.4f} here" if gaps[worst] else "none"
    note = f"{gap}, of {len(gaps)} numbers"
    bench.add("right", f"{wrong}{what}: largest difference to a CPU", gaps[worst], "", None, note)


def _scores(bench, name, preset, device):
    """The scores of a tiny run, by metric, variant and axes."""
    folder = Path(bench.folder) / "right" / device
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    evaluator, backbone, dataset = tiny(name, preset, folder, device=device)
    with libraries_on(device), _cache(folder / "cache"), float32(tf32=False):
        scores = list(evaluator.run(copy.deepcopy(backbone), dataset, Run()))
    return {
        (score.metric, score.variant, *(f"{axis} {value}" for axis, value in score.axes.items())): float(score.value)
        for score in scores
    }


def _figures(method, device):
    """The figures of a few steps in float32, by step and name; views are cut by the GPU's function on both."""
    with mock.patch.object(augmentation, "resized_crops", crops.matrix_crops):
        training = assembled(method, device, compile=False)
        reports = [report.figures for report in loop.run(training, STEPS)]
    return {(step, name): float(value) for step, figures in enumerate(reports) for name, value in figures.items()}


@contextmanager
def _cache(folder):
    with mock.patch.dict(os.environ, {"DENSEBENCH_CACHE": str(folder)}):
        yield
