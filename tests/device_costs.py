"""What a step of a method and an image of a protocol cost on the simulated device, beside what is paid once."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
from collections import Counter

import torch
from gpu_libraries import libraries_on
from simulated_cuda import simulate
from simulated_cuda.report import KERNEL, OVERLAPPED, TO_DEVICE, TO_HOST, WAIT
from tiny_methods import assembled
from tiny_protocols import tiny

from densebench.conformance.checking import own_cache
from densebench.evaluation.protocol import Run
from densebench.numerics.arithmetic import float32
from densebench.training import loop

STEPS, IMAGES = 2, 2


@dataclasses.dataclass(frozen=True)
class Costs:
    """How often the host waits (for all that was queued; for an event), copies to the device that block it, and kernels.

    waiting: the lines that wait, or that such a copy is made at, and how often.
    """

    waits: float
    overlapped: float
    copies: float
    kernels: float
    waiting: Counter

    @classmethod
    def between(cls, before, after, times):
        """Return the costs of what was done `times` times between two states of the counts."""
        more = after - before

        def total(*kinds):
            return sum(count for key, count in more.items() if key[0] in kinds) / times

        lines = Counter({key: count / times for key, count in more.items() if key[0] != KERNEL})
        return cls(total(WAIT, TO_HOST), total(OVERLAPPED), total(TO_DEVICE), total(KERNEL), lines)

    def __str__(self):
        ranks = {WAIT: 0, TO_HOST: 0, OVERLAPPED: 1}
        rows = sorted(self.waiting.items(), key=lambda row: (ranks.get(row[0][0], 2), -row[1]))[:14]
        lines = [f"    {count:6.1f}  {kind:10}  {what:22}  {where}" for (kind, what, where), count in rows]
        shown = f"{self.waits:.1f} waits, {self.overlapped:.1f} overlapped, {self.copies:.1f} copies, {self.kernels:.0f} kernels"
        return "\n".join([shown, *lines])


def of_a_step(method):
    """Return the costs of a step of a method that logs nothing."""
    with simulate() as report:
        training = assembled(method, "cuda", log_every=100, steps=100)
        steps = loop.run(training, 1 + STEPS)
        next(steps)
        before = report.counts.copy()
        for _ in range(STEPS):
            next(steps)
        after = report.counts.copy()
        steps.close()
    return Costs.between(before, after, STEPS)


def of_an_image(name, preset, folder):
    """Return the costs of an image of a protocol, in batches of one, with one of the training split; of a frame of a video."""
    counts = [_counts(name, preset, folder / str(images), images) for images in (IMAGES, 2 * IMAGES)]
    return Costs.between(*counts, IMAGES)


def _counts(name, preset, folder, images):
    folder.mkdir()
    with simulate() as report, libraries_on("cuda"), own_cache(), float32(tf32=False), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(0)
        evaluator, backbone, dataset = tiny(name, preset, folder, frames=2 + images, device="cuda", batch_size=1)
        list(evaluator.run(copy.deepcopy(backbone), dataset, Run(limit=images)))
    return report.counts
