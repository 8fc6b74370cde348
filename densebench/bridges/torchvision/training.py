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
from densebench.console import notice, progress, warn
from densebench.errors import UserError
from densebench.features.extract import autocast
from densebench.files.atomic import Damaged
from densebench.files.states import load_newest, retain, save_state
from densebench.numerics.host_copy import HostCopy
from densebench.numerics.seeds import seed_of
from densebench.processes import World, agree, average_gradients, share, synchronise, total

POINTS = 50  # saved states, and points of the curve, in a run; only the last two states stay
LEAST = 20  # fewest iterations between two of them
LINES = 10  # number of these points that are printed
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
TRUNK = "backbone.layers.trunk."
EMBEDDING = re.compile(r"\.(pos_embed|patch_embed|cls_token|reg_token|mask_token)(\.|$)")
POSITIONS = re.compile(r"\.(pos_embed|cls_token|reg_token|mask_token)$")
WARMUP_FROM = 0.001  # share of the learning rate at which warm-up begins
FALL = 0.1
ELSEWHERE = "another process met an image that cannot be read; see its message"

Curve = list[tuple[int, float]]
"""Points of the loss curve: an iteration, and the mean loss since the previous point."""


def train(detector: Any, data: Data, options: Options, folder: Path, world: World, workers: int = 0) -> Curve:
    """Train a detector in place and return its loss curve; a killed run resumes from `folder` and ends at the very same weights.

    Raises UserError for a file that cannot be read, a batch that cannot be divided, a loss that is not finite, and fp16 training
    without a GPU.
    """
    check_batch(options, world.size)
    if options.precision == "fp16" and world.device.type != "cuda":
        raise UserError("--precision fp16 trains with scaled gradients, which takes a GPU; use bf16 or fp32")
    run = Trainer(detector.to(world.device).train(), data, options, folder, world)
    start = run.resume()
    synchronise()  # no process writes before all have looked
    if start < run.iterations:
        with _repeatable(world.device):
            run.go(start, workers)
    synchronise()
    return run.curve


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Make sums of gradients on a CPU independent of the number of threads; nothing changes on a GPU."""
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
        """Load the newest undamaged state, and return its iteration; 0 without one."""
        try:
            state = load_newest(self.folder, {"detector": self.detector}, self.optimiser)
        except Damaged as damage:
            warn(f"{damage}; there is no other state: training begins anew")
            return 0
        if state is None:
            return 0
        _, facts = state
        self.curve = [(int(iteration), float(loss)) for iteration, loss in facts["curve"]]
        self.scaler.load_state_dict(facts["scaler"])
        return int(facts["step"])

    def go(self, start: int, workers: int) -> None:
        """Train from iteration `start` to the last one."""
        batches = training_batches(self.data, self.options, self.world, start, workers)
        every = max(LEAST, self.iterations // POINTS)
        self.since = start
        with progress("training", self.iterations - start, "iterations") as bar:
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
        finite: list[HostCopy] = []
        problem: UserError | None = None
        for _ in range(passes):
            batch = next(batches)
            problem = problem or (batch if isinstance(batch, UserError) else None)
            if problem is None:
                loss = loss + self._pass(batch, passes, finite)
        self._check(iteration, all(bool(copy.value()) for copy in finite), problem)
        average_gradients(self.detector)
        if options.clip:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.detector.parameters(), options.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.recent += loss

    def _pass(self, batch: list[Any], passes: int, finite: list[HostCopy]) -> torch.Tensor:
        """Add the gradients of one forward pass, and return its share of the step's loss.

        Whether that is a finite number is appended to `finite`; its copy begins before the backward pass is queued.
        """
        device = self.world.device
        torch.manual_seed(seed_of(self.options.train_seed, "model", batch[0][0]))  # the detector's draws, in whichever process
        images = [image.to(device, non_blocking=True) for _, image, _ in batch]
        truths = [{name: value.to(device, non_blocking=True) for name, value in truth.items()} for _, _, truth in batch]
        with autocast(device, self.options.precision):
            loss = torch.stack(list(self.detector(images, truths).values())).sum() / passes
        finite.append(HostCopy(loss.isfinite()))
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _check(self, iteration: int, finite: bool, problem: UserError | None) -> None:
        """Raise UserError in all processes where one has met a file that cannot be read or a loss that is not finite."""
        if agree(problem is not None, self.world.device):
            raise problem or UserError(ELSEWHERE)
        if agree(not finite, self.world.device):
            raise UserError(
                f"the loss of iteration {iteration} is not a finite number; lower --learning-rate "
                f"{self.options.learning_rate:g}, or use --precision fp32"
            )

    def _save(self, done: int) -> None:
        """Write the state. Batch norms' running statistics are those of the main process; they are not used before the end."""
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
    """Return groups of parameters for the optimiser, by the factor of the learning rate (`scale`) and weight decay.

    The factor is layer_decay^(depth - i) for block i of the backbone's `depth` blocks, layer_decay^(depth + 1) for embeddings
    before the blocks, and 1 for all else (ViTDet). Norms, positions and tokens are not decayed; biases are, as in the official
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
    """Return the number of layers from a parameter up to the heads: the exponent of its layer decay."""
    if not depth or not name.startswith(TRUNK):
        return 0
    if block := re.search(r"\.blocks\.(\d+)\.", name):
        return depth - int(block[1])
    return depth + 1 if EMBEDDING.search(name) else 0


def rate_at(iteration: int, iterations: int, warmup: int, steps: Sequence[float]) -> float:
    """Return the factor of the learning rate at an iteration (from 0): a linear rise from 1/1000, then a tenth after each step.

    steps: when it falls, as shares of the run. The rise lasts `warmup` iterations, but at most a tenth of the run.
    """
    falls = sum(iteration >= round(step * iterations) for step in steps)
    rise = min(warmup, iterations // 10)
    risen = WARMUP_FROM + (1 - WARMUP_FROM) * iteration / rise if iteration < rise else 1.0
    return risen * FALL**falls


def settle(detector: Any, data: Data, options: Options, world: World, workers: int = 0) -> None:
    """Recompute the running statistics of all trained batch norms in place, as means over forward passes of training samples.

    During training they follow single passes of a few images, which differ between processes. Here every process sees the same
    augmented samples. All other layers are in evaluation mode.
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
    """Pass samples through the backbone and its pyramid; return the first error of a file, or None."""
    with progress("batch norms", min(SETTLING, len(data.train))) as bar:
        for batch in settling_batches(data, options, workers, world.device.type == "cuda"):
            if isinstance(batch, UserError):
                return batch
            images, _ = detector.transform([image.to(world.device, non_blocking=True) for _, image, _ in batch])
            with autocast(world.device, options.precision):
                detector.backbone(images.tensors)
            bar.advance(len(batch))
    return None
