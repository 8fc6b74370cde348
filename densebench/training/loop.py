"""The training loop.

Every random draw is a function of (seed, step) or (seed, epoch, image). So a state consists of weights, the optimiser's moments,
the objective's memory and a step number, and on the CPU a resumed run gives the very same bits as an uninterrupted one.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from densebench.console import warn
from densebench.datasets.images import Images
from densebench.errors import UserError
from densebench.numerics.arithmetic import float32
from densebench.numerics.host_copy import HostCopy
from densebench.numerics.seeds import seed_of
from densebench.processes import World, decoders, in_all, resolve_precision, total
from densebench.training.augmentation import ViewSpec
from densebench.training.batches import Batch, Order, Reader, load_batches
from densebench.training.cache import Cache
from densebench.training.compiling import compile_blocks
from densebench.training.gradients import GradientMean
from densebench.training.method import MOST_STEPS, Pretrainer, PrototypePretrainer
from densebench.training.monitor import Monitor
from densebench.training.networks import MEAN, STD, Encoder, Network
from densebench.training.objective import Loss, Objective, StepContext, Views
from densebench.training.optimisation import clip_each, cosine, follow, freeze_last_layer, gradients, parameter_groups
from densebench.training.prefetch import Prefetch
from densebench.training.rendering import render_views


@dataclass
class Training:
    """A run in memory: networks, optimiser, objective, schedules, and the number of steps that are done."""

    options: Pretrainer
    images: Images
    seed: int
    world: World
    order: Order
    student: Network
    teacher: Network
    objective: Objective
    optimiser: torch.optim.Optimizer
    monitor: Monitor
    step: int = 0
    broken: set[str] = field(default_factory=set)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.mean = GradientMean(self.student.parameters())
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=self.options.precision == "fp16")
        o, per_epoch = self.options, self.order.steps
        self.steps = o.steps or o.epochs * per_epoch
        if self.steps > MOST_STEPS:
            raise UserError(
                f"--epochs {o.epochs}: {self.steps} steps; {MOST_STEPS} are the most, {MOST_STEPS // per_epoch} epochs"
            )
        self.warmup = min(round(o.warmup_epochs * per_epoch), self.steps)
        scale = o.batch_size / o.lr_batch if o.lr_batch else 1.0
        rates = {"lr": o.lr} if o.head_lr is None else {"lr": o.lr, "head_lr": o.head_lr}
        self.schedules = {
            **{name: cosine(rate * scale, o.min_lr, self.steps, self.warmup) for name, rate in rates.items()},
            "weight_decay": cosine(o.weight_decay, o.weight_decay_end, self.steps),
            "momentum": cosine(o.momentum, 1.0, self.steps),
            **o.scheduled(self.steps, per_epoch),
        }

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """The modules that a saved state holds, beside the optimiser."""
        return {"student": self.student, "teacher": self.teacher, "objective": self.objective}

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.order.steps

    def due(self, step: int) -> bool:
        """Return whether to save a state after `step` steps; it is the same in every process."""
        options = self.options
        if step == self.steps:
            return True
        if options.save_steps:
            return step % options.save_steps == 0
        return step % (options.save_every * self.order.steps) == 0

    def context(self, part: int, logging: bool) -> StepContext:
        """Return the context of a micro-batch (`part`) of the next step, for the objective."""
        scheduled = self.scheduled(min(self.step, self.steps - 1))
        position = (self.step, self.epoch, self.steps / self.order.steps, scheduled, self.seed)
        return StepContext(*position, self.world.rank, self.world.size, part, self.options.accumulate, logging)

    def scheduled(self, step: int) -> dict[str, float]:
        """Return the values of all schedules at a step."""
        return {name: float(values[step]) for name, values in self.schedules.items()}


def assemble(options: Pretrainer, encoder: Encoder, images: Images, seed: int, world: World) -> Training:
    """Return a run at step 0. Raises UserError where the batch does not fit the data or the number of processes."""
    options = replace(options, precision=resolve_precision(options.precision, world.device.type))
    order = Order(len(images), options.batch_size, seed, world.rank, world.size, options.accumulate)
    student = Network(encoder, options.head(encoder.dim), options.precision).to(world.device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    for module in teacher.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0  # type: ignore[assignment]
    objective = options.objective(encoder).to(world.device)
    parts = {"lr": [student]} if options.head_lr is None else {"lr": [student.encoder], "head_lr": [student.head]}
    groups = [{**group, "rate": rate} for rate, modules in parts.items() for group in parameter_groups(modules)]
    optimiser = torch.optim.AdamW(groups, lr=0.0, fused=world.device.type == "cuda" or None)
    compile_blocks(student, teacher, options.compile, world.device)
    prototypes = next(iter(objective.prototypes.values()), None)
    return Training(options, images, seed, world, order, student, teacher, objective, optimiser, Monitor(prototypes))


@dataclass(frozen=True)
class Report:
    """The outcome of a step; a logged step has figures (means over micro-batches and processes) and its last views."""

    step: int
    epoch: int
    figures: dict[str, float]
    views: Views | None = None


def run(training: Training, last: int) -> Iterator[Report]:
    """Train up to step `last`, and yield a report after every step."""
    batches: Iterator[Batch] = _batches(training, last)
    specs = training.options.views()
    if training.world.device.type == "cuda":
        batches = Prefetch(batches, specs, training.world.device)
    try:
        while training.step < last:
            with float32(tf32=training.options.precision != "fp32"):  # not around the yield, where a probe may be scored
                report = train_step(training, batches, specs)
            yield report
    finally:
        close = getattr(batches, "close", None)
        if close:
            close()


def train_step(training: Training, batches: Iterator[Batch], specs: tuple[ViewSpec, ...]) -> Report:
    """Take one optimiser step over all micro-batches of this process."""
    options, world = training.options, training.world
    logging = (training.step + 1) % options.log_every == 0 or training.step + 1 == training.steps
    losses: list[Loss] = []
    views = None
    for part in range(options.accumulate):
        batch = next(batches)
        _count_broken(training, batch)
        views = _views(batch, specs)
        torch.manual_seed(seed_of(training.seed, "network", training.step, world.rank, part))  # stochastic depth
        loss = training.objective(training.student, training.teacher, views, training.context(part, logging))
        if part == options.accumulate - 1:
            training.mean.begin()
        training.scaler.scale(loss.total / options.accumulate).backward()
        losses.append(loss)
        del batch
        if isinstance(batches, Prefetch):
            batches.fetch()
    means = _means(training, losses) if logging else None
    update(training, losses)
    training.step += 1
    epoch = (training.step - 1) // training.order.steps
    return Report(training.step, epoch, _figures(training, means), views) if means else Report(training.step, epoch, {})


def update(training: Training, losses: list[Loss]) -> None:
    """Update student, objective and teacher, in this order; none of them where a loss or a gradient is not finite."""
    options, step = training.options, training.step
    scheduled = training.scheduled(step)
    for group in training.optimiser.param_groups:
        group["lr"] = scheduled[group["rate"]]
        if group["decayed"]:
            group["weight_decay"] = scheduled["weight_decay"]
    training.mean.finish()
    training.scaler.unscale_(training.optimiser)
    norms = clip_each(gradients(training.student), options.clip_grad)
    finite = torch.stack([loss.total.detach() for loss in losses]).isfinite().all() & norms.isfinite().all()
    if not in_all(finite):  # the only wait for the device in a step
        training.monitor.skip(step + 1, scaled=training.scaler.is_enabled())
        training.objective.discard()
    else:
        training.monitor.passed()
        if isinstance(options, PrototypePretrainer) and step // training.order.steps < options.freeze_last_layer:
            freeze_last_layer(training.student)
        training.scaler.step(training.optimiser)
        training.objective.commit(training.teacher)
        follow(training.teacher, training.student, scheduled["momentum"])
    training.scaler.update()
    training.optimiser.zero_grad(set_to_none=True)


def _means(training: Training, losses: list[Loss]) -> tuple[list[str], HostCopy]:
    """Return the names of terms and figures, and their averages over micro-batches and processes, on their way to the host.

    The copy begins before the only wait of the step, so it has arrived after it.
    """
    means = {}
    for kind in ("terms", "figures"):
        for name in getattr(losses[0], kind):
            means[name] = torch.stack([getattr(loss, kind)[name].float() for loss in losses]).mean()
    means = {"loss": torch.stack([loss.total.detach().float() for loss in losses]).mean(), **means}
    return list(means), HostCopy(total(torch.stack(list(means.values()))) / training.world.size)


def _figures(training: Training, means: tuple[list[str], HostCopy]) -> dict[str, float]:
    """Return the averages of `_means` with the values of the schedules, and let the monitor watch them."""
    step = training.step - 1
    figures: dict[str, float] = dict(zip(means[0], means[1].value().tolist(), strict=True))
    training.monitor.watch(training.step, figures, warmed_up=step >= training.warmup)
    counts = {"skipped": float(training.monitor.skipped), "broken_files": float(len(training.broken))}
    return {"epoch": training.step / training.order.steps, **figures, **training.scheduled(step), **counts}


def _views(batch: Batch, specs: tuple[ViewSpec, ...]) -> Views:
    pixels = render_views(batch.pixels, batch.offsets, batch.draws, specs, batch.plans, MEAN, STD)
    return Views(pixels, batch.draws, batch.numbers)


def _batches(training: Training, last: int) -> Iterator[Batch]:
    options, world = training.options, training.world
    workers = options.workers if options.workers is not None else default_workers(world)
    keys = training.order.micro_batches(training.step, last)
    pin = world.device.type == "cuda" and options.cache != "gpu"
    if options.cache == "none":
        yield from load_batches(Reader(training.images, options.views(), training.seed), keys, workers, pin)
        return
    if not isinstance(training.images, Cache):
        training.images = Cache(training.images, options.cache_side, shared=workers > 0 and options.cache == "ram")
    cache = training.images
    if options.cache == "ram":
        yield from load_batches(Reader(cache, options.views(), training.seed), keys, workers, pin)
        return
    shapes, cache = cache.on(world.device)
    for batch in load_batches(Reader(shapes, options.views(), training.seed), keys, workers, False):
        yield cache.fill(batch)


def default_workers(world: World) -> int:
    """Return the default number of decoding processes: none on the CPU, whose cores the training needs; else `decoders()`."""
    return 0 if world.device.type == "cpu" else decoders()


def _count_broken(training: Training, batch: Batch) -> None:
    for title in batch.broken:
        if title not in training.broken:
            training.broken.add(title)
            warn(f"cannot decode {title}; another image takes its place ({len(training.broken)} so far)")
    if len(training.broken) > training.options.max_broken:
        raise UserError(
            f"{len(training.broken)} images of {training.images.name} cannot be decoded, the limit is --max-broken "
            f"{training.options.max_broken}: {sorted(training.broken)[0]} and others; fetch them again or raise the limit"
        )


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a Ctrl-C (or SIGTERM) has come, for the loop; a second one interrupts at once."""
    signals: list[int] = []

    def note(number: int, _frame: Any) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["Report", "Training", "assemble", "interruptible", "run"]
