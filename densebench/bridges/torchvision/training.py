"""Training a detector: steps, learning rates, batch norms; a killed run resumes from its last state."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from densebench.bridges.torchvision.data import SETTLING, check_batch, settling_batches, training_batches
from densebench.bridges.torchvision.options import Data, Options, iterations_of
from densebench.console import Progress, notice
from densebench.errors import UserError
from densebench.features.extract import autocast
from densebench.files.atomic import Damaged
from densebench.files.states import load_newest, retain, save_state
from densebench.numerics.seeds import seed_of
from densebench.processes import World, agree, average_gradients, share, synchronise, total

POINTS = 50  # states and points of the curve in the course of a run; of the states the last two stay
LEAST = 20  # iterations between them at least
LINES = 10  # of those points that are printed
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
TRUNK = "backbone.layers.trunk."
EMBEDDING = re.compile(r"\.(pos_embed|patch_embed|cls_token|reg_token|mask_token)(\.|$)")
POSITIONS = re.compile(r"\.(pos_embed|cls_token|reg_token|mask_token)$")
WARMUP_FROM = 0.001  # share of the learning rate at which warm-up begins
FALL = 0.1
ELSEWHERE = "another process met an image that cannot be read; see its message"

Curve = list[tuple[int, float]]
"""Mean losses up to some iterations."""


def train(detector: Any, data: Data, options: Options, folder: Path, world: World, workers: int = 0) -> Curve:
    """Train a detector in place and return its curve; a run that was killed is resumed from `folder`, to the very same weights.

    Raises UserError for a file that cannot be read, a batch that cannot be divided, a loss that is not finite, and fp16 training
    without a GPU.
    """
    check_batch(options, world.size)
    if options.precision == "fp16" and world.device.type != "cuda":
        raise UserError("--precision fp16 trains with scaled gradients, which takes a GPU; use bf16 or fp32")
    run = Trainer(detector.to(world.device).train(), data, options, folder, world)
    start = run.resume()
    synchronise()  # nobody writes before everybody has looked
    if start < run.iterations:
        with _repeatable(world.device):
            run.go(start, workers)
    synchronise()
    return run.curve


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Sum gradients on a CPU in one order, however many threads there are; a GPU is left as it is."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu", warn_only=warned or not before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


class Trainer:
    """The state of a run between its steps."""

    def __init__(self, detector: Any, data: Data, options: Options, folder: Path, world: World) -> None:
        self.detector, self.data, self.options, self.folder, self.world = detector, data, options, folder, world
        self.iterations = iterations_of(options, len(data.train))
        parameters = groups(detector, detector.backbone.layers.depth, options.weight_decay, options.layer_decay)
        self.optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=options.precision == "fp16")  # type: ignore[attr-defined]
        self.curve: Curve = []
        self.recent = torch.zeros((), device=world.device)
        self.since = 0

    def resume(self) -> int:
        """Load the last state and return how many iterations it has done."""
        try:
            state = load_newest(self.folder, {"detector": self.detector}, self.optimiser)
        except Damaged as damage:
            notice(f"{damage}; there is no other state: training begins anew")
            return 0
        if state is None:
            return 0
        _, facts = state
        self.curve = [(int(iteration), float(loss)) for iteration, loss in facts["curve"]]
        self.scaler.load_state_dict(facts["scaler"])
        return int(facts["step"])

    def go(self, start: int, workers: int) -> None:
        """Train to the end."""
        batches = training_batches(self.data, self.options, self.world, start, workers)
        every = max(LEAST, self.iterations // POINTS)
        bar = Progress("training", self.iterations - start, "iterations")
        self.since = start
        for iteration in range(start, self.iterations):
            self.step(iteration, batches)
            done = iteration + 1
            if done == self.iterations:
                settle(self.detector, self.data, self.options, self.world, workers)
            if done % every == 0 or done == self.iterations:
                self._save(done)
            if self.world.is_main:
                bar.advance()

    def step(self, iteration: int, batches: Any) -> None:
        """Take one step of the optimiser, on this process's share of a batch."""
        options = self.options
        falls = [step / options.epochs for step in options.steps]
        factor = rate_at(iteration, self.iterations, options.warmup, falls)
        for group in self.optimiser.param_groups:
            group["lr"] = options.learning_rate * group["scale"] * factor
        self.optimiser.zero_grad(set_to_none=True)
        passes = options.train_batch // self.world.size // options.at_once
        loss = torch.zeros((), device=self.world.device)
        problem: UserError | None = None
        for _ in range(passes):
            batch = next(batches)
            problem = problem or (batch if isinstance(batch, UserError) else None)
            if problem is None:
                loss = loss + self._pass(batch, passes)
        self._check(iteration, loss, problem)
        average_gradients(self.detector)
        if options.clip:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.detector.parameters(), options.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.recent += loss

    def _pass(self, batch: list[Any], passes: int) -> torch.Tensor:
        """Add the gradients of some samples and return their share of the loss."""
        device = self.world.device
        torch.manual_seed(seed_of(self.options.train_seed, "model", batch[0][0]))  # the detector's draws, in whichever process
        images = [image.to(device, non_blocking=True) for _, image, _ in batch]
        truths = [{name: value.to(device, non_blocking=True) for name, value in truth.items()} for _, _, truth in batch]
        with autocast(device, self.options.precision):
            loss = torch.stack(list(self.detector(images, truths).values())).sum() / passes
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _check(self, iteration: int, loss: torch.Tensor, problem: UserError | None) -> None:
        """End all processes where one has met a file that cannot be read, or a loss that is not finite."""
        if agree(problem is not None, self.world.device):
            raise problem or UserError(ELSEWHERE)
        if agree(not bool(loss.isfinite()), self.world.device):
            raise UserError(
                f"the loss of iteration {iteration} is not a finite number; lower --learning-rate "
                f"{self.options.learning_rate:g}, or use --precision fp32"
            )

    def _save(self, done: int) -> None:
        """Write the state. Running statistics of batch norms are the main process's: nothing reads them before the end."""
        self.curve.append((done, float(total(self.recent)) / self.world.size / (done - self.since)))
        self.recent.zero_()
        self.since = done
        if self.world.is_main:
            facts = {"curve": self.curve, "scaler": self.scaler.state_dict()}
            save_state(self.folder, done, {"detector": self.detector}, self.optimiser, facts)
            retain(self.folder, 2)
        if len(self.curve) % (POINTS // LINES) == 0 or done == self.iterations:
            notice(f"iteration {done}: loss {self.curve[-1][1]:.3f}")


def groups(detector: nn.Module, depth: int, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Return the parameters by the factor of their learning rate (`scale`) and their weight decay.

    Block i of the backbone's `depth` has the factor layer_decay^(depth - i), what comes before the blocks
    layer_decay^(depth + 1), all else 1 (ViTDet). Norms, positions and tokens are not decayed; biases are, as in the official
    codes.
    """
    norms = {id(p) for module in detector.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    by_key: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            undecayed = id(parameter) in norms or POSITIONS.search(name)
            key = layer_decay ** _below(name, depth), 0.0 if undecayed else weight_decay
            by_key.setdefault(key, []).append(parameter)
    return [{"params": by_key[key], "scale": key[0], "weight_decay": key[1]} for key in sorted(by_key)]


def _below(name: str, depth: int) -> int:
    """Return how many layers a parameter lies below the heads."""
    if not depth or not name.startswith(TRUNK):
        return 0
    if block := re.search(r"\.blocks\.(\d+)\.", name):
        return depth - int(block[1])
    return depth + 1 if EMBEDDING.search(name) else 0


def rate_at(iteration: int, iterations: int, warmup: int, steps: Sequence[float]) -> float:
    """Return the share of the learning rate at an iteration from 0: a linear rise from 1/1000, then a tenth after each step.

    steps: shares of the run. The rise lasts `warmup` iterations, a tenth of the run at most.
    """
    falls = sum(iteration >= round(step * iterations) for step in steps)
    rise = min(warmup, iterations // 10)
    risen = WARMUP_FROM + (1 - WARMUP_FROM) * iteration / rise if iteration < rise else 1.0
    return risen * FALL**falls


def settle(detector: Any, data: Data, options: Options, world: World, workers: int = 0) -> None:
    """Take the running statistics of all trained batch norms anew, as means over forward passes of training samples.

    While a pyramid is trained they follow single passes: a few images, in which each process meets others. Here every process
    sees the same samples, as they are augmented for training. Other layers are as in scoring: nothing is dropped.
    Raises UserError for an image that cannot be read.
    """
    norms = [m for m in detector.train().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if not norms:
        return
    detector.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # the mean over all passes
    problem = _forward(detector, data, options, world, workers)
    if agree(problem is not None, world.device):
        raise problem or UserError(ELSEWHERE)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        share([*norm.buffers()])
    detector.train()


@torch.no_grad()
def _forward(detector: Any, data: Data, options: Options, world: World, workers: int) -> UserError | None:
    """Pass samples through the backbone and its pyramid; return the first problem."""
    bar = Progress("batch norms", min(SETTLING, len(data.train)))
    for batch in settling_batches(data, options, workers, world.device.type == "cuda"):
        if isinstance(batch, UserError):
            return batch
        images, _ = detector.transform([image.to(world.device, non_blocking=True) for _, image, _ in batch])
        with autocast(world.device, options.precision):
            detector.backbone(images.tensors)
        bar.advance(len(batch))
    return None
