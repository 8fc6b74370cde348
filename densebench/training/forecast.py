"""What a training will store and how long it will take, before it is started: sizes by arithmetic, time by a short trial."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from densebench.console import clock, notice
from densebench.datasets.dataset import limited
from densebench.datasets.images import Images
from densebench.errors import UserError
from densebench.evaluation.undisturbed import random_states
from densebench.files.cache import in_gb
from densebench.training.loop import Training, run
from densebench.training.method import Pretrainer
from densebench.training.networks import Encoder

SAMPLED = 16  # images from whose sizes those of all are estimated
BUDGET = 30.0
"""Seconds that a trial of two steps may take, by a guess from the forward pass of one image."""
COST = 4.0  # forward passes that take as long as a step: the student's forward and backward pass, and the teacher's forward


@dataclass(frozen=True)
class Forecast:
    """What a training stores, in bytes, and the seconds of one step; None where no trial was made.

    backbone: one checkpoint; state: one saved state; cache: all decoded images in memory.
    """

    backbone: int
    state: int
    cache: int
    seconds: float | None


def forecast(training: Training) -> Forecast:
    """Return what a training will store and how long a step takes. The training must not be used afterwards: it took steps."""
    options = training.options
    student = sum(parameter.nbytes for parameter in training.student.parameters() if parameter.requires_grad)
    held = sum(map(_held, training.modules.values()))
    backbone = _held(training.teacher.encoder)
    cache = 0 if options.cache == "none" else cached_bytes(training.images, options.cache_side)
    return Forecast(backbone, held + 2 * student, cache, seconds_of_step(training))


def stored_bytes(options: Pretrainer, encoder: Encoder, steps: int, per_epoch: int) -> int:
    """Return the bytes of backbone and states that a finished training leaves; heads and objective get no memory if possible."""
    for device in ("meta", "cpu"):
        try:
            with random_states(), torch.device(device):
                head, objective = options.head(encoder.dim), options.objective(encoder)
            break
        except (NotImplementedError, RuntimeError):  # a tensor without values was asked for one
            if device == "cpu":
                raise
    networks = 2 * (_held(encoder) + _held(head))
    trained = sum(each.nbytes for part in (encoder, head) for each in part.parameters() if each.requires_grad)
    return _held(encoder) + _kept(options, steps, per_epoch) * (networks + _held(objective) + 2 * trained)


def _held(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def cached_bytes(images: Images, side: int) -> int:
    """Return the bytes of all images, decoded and reduced to a short side of `side` px, from the sizes of a few."""
    sizes = []
    for number in limited(range(len(images)), SAMPLED):
        try:
            width, height = images.open(number).size
        except UserError:  # one that cannot be decoded takes no room
            width = height = 0
        factor = min(1.0, side / max(1, min(width, height)))
        sizes.append(3 * round(width * factor) * round(height * factor))
    return round(sum(sizes) / len(sizes) * len(images))


def seconds_of_step(training: Training) -> float | None:
    """Return the seconds of the second of two steps; None where they would take long, or several processes share the work."""
    if training.world.size > 1 or training.steps < 2:
        return None
    specs, encoder = training.options.views(), training.teacher.encoder
    blank = [torch.zeros(1, 3, spec.size, spec.size, device=training.world.device) for spec in specs]
    with torch.inference_mode():
        encoder(blank[0])  # to warm up
        started = time.perf_counter()
        for view in blank:
            encoder(view)
        forward = time.perf_counter() - started
    if training.world.device.type == "cpu" and 2 * COST * forward * training.options.batch_size > BUDGET:
        return None
    training.options = replace(training.options, cache="none", workers=0)
    steps = run(training, 2)
    next(steps)
    started = time.perf_counter()
    next(steps)
    return time.perf_counter() - started


def kept_states(training: Training) -> int:
    """Return how many saved states a finished training leaves."""
    return _kept(training.options, training.steps, training.order.steps)


def _kept(options: Pretrainer, steps: int, per_epoch: int) -> int:
    return min(options.keep, -(-steps // (options.save_steps or options.save_every * per_epoch)))


def announce(training: Training) -> None:
    """Print what a training will store and how long it will take."""
    options, steps = training.options, training.steps
    costs, states = forecast(training), kept_states(training)
    notice(
        f"on disk: {in_gb(costs.backbone)} of backbone, and {states} states of {in_gb(costs.state)}; "
        + (f"--cache {options.cache}: about {in_gb(costs.cache)} of memory" if costs.cache else "decoded images are not cached")
    )
    if costs.seconds is None:
        notice("how long it takes is not estimated: two steps here would take too long, or several processes share the work")
    else:
        rate = options.batch_size / costs.seconds
        notice(f"about {clock(steps * costs.seconds)} by a trial of two steps ({rate:.1f} images/s, decoded in this process)")
