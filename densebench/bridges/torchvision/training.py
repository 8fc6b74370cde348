"""Training a detector, resumed where a killed run was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from densebench.bridges.torchvision.data import check_batch, training_batches
from densebench.bridges.torchvision.norms import settle
from densebench.bridges.torchvision.optimisation import groups, rate_at
from densebench.bridges.torchvision.recipe import Data, Recipe
from densebench.console import Progress, notice
from densebench.distributed import World, agree, average_gradients, synchronise, total
from densebench.errors import UserError
from densebench.features.extract import autocast
from densebench.files.atomic import Damaged
from densebench.training.batches import seed_of
from densebench.training.states import load_newest, retain, save_state

POINTS = 50  # states and points of the curve in the course of a run; of the states the last two stay
LEAST = 20  # iterations between them
LINES = 10  # of those points that are said

Curve = list[tuple[int, float]]
"""Mean losses up to some iterations."""


def train(detector: Any, data: Data, recipe: Recipe, folder: Path, world: World, workers: int = 0) -> Curve:
    """Train a detector in place; what lies in `folder` is gone on with, to the very same weights.

    Raises UserError for a file that cannot be read, a batch that cannot be divided, a loss that is not finite, and fp16 training
    without a GPU.
    """
    check_batch(recipe, world.size)
    if recipe.precision == "fp16" and world.device.type != "cuda":
        raise UserError("--precision fp16 trains with scaled gradients, which takes a GPU; use bf16 or fp32")
    run = _Run(detector.to(world.device).train(), data, recipe, folder, world)
    start = run.resume()
    synchronise()  # nobody writes before everybody has looked
    if start < recipe.iterations:
        with _repeatable(world.device):
            run.go(start, workers)
    synchronise()
    return run.curve


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On a CPU gradients are summed in one order, however many threads there are; a GPU is left as it is."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu", warn_only=warned or not before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


class _Run:
    """The state of a run between its steps."""

    def __init__(self, detector: Any, data: Data, recipe: Recipe, folder: Path, world: World) -> None:
        self.detector, self.data, self.recipe, self.folder, self.world = detector, data, recipe, folder, world
        found = groups(detector, detector.backbone.layers.depth, recipe.weight_decay, recipe.layer_decay)
        self.optimiser = torch.optim.AdamW(found, lr=recipe.rate)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "fp16")  # type: ignore[attr-defined]
        self.curve: Curve = []
        self.recent = torch.zeros((), device=world.device)
        self.since = 0

    def resume(self) -> int:
        """Take up the last state; returns the iterations that it holds."""
        try:
            found = load_newest(self.folder, {"detector": self.detector}, self.optimiser)
        except Damaged as damage:
            notice(f"{damage}; there is no other state: training begins anew")
            return 0
        if found is None:
            return 0
        _, facts = found
        self.curve = [(int(iteration), float(loss)) for iteration, loss in facts["curve"]]
        self.scaler.load_state_dict(facts["scaler"])
        return int(facts["step"])

    def go(self, start: int, workers: int) -> None:
        """Train to the end."""
        recipe = self.recipe
        batches = training_batches(self.data, recipe, self.world, start, workers)
        every = max(LEAST, recipe.iterations // POINTS)
        bar = Progress("training", recipe.iterations - start, "iterations")
        self.since = start
        for iteration in range(start, recipe.iterations):
            self._step(iteration, batches)
            done = iteration + 1
            if done == recipe.iterations:
                settle(self.detector, self.data, recipe, self.world, workers)
            if done % every == 0 or done == recipe.iterations:
                self._keep(done)
            if self.world.is_main:
                bar.advance()

    def _step(self, iteration: int, batches: Any) -> None:
        """One step of the optimiser on this process's share of a batch."""
        recipe = self.recipe
        share = rate_at(iteration, recipe.iterations, recipe.warmup, recipe.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate * group["scale"] * share
        self.optimiser.zero_grad(set_to_none=True)
        passes = recipe.batch // self.world.size // recipe.at_once
        loss = torch.zeros((), device=self.world.device)
        problem: UserError | None = None
        for _ in range(passes):
            batch = next(batches)
            problem = problem or (batch if isinstance(batch, UserError) else None)
            if problem is None:
                loss = loss + self._pass(batch, passes)
        self._check(iteration, loss, problem)
        average_gradients(self.detector)
        if recipe.clip:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.detector.parameters(), recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.recent += loss

    def _pass(self, batch: list[Any], passes: int) -> torch.Tensor:
        """Add the gradients of some samples; returns their share of the loss."""
        device = self.world.device
        torch.manual_seed(seed_of(self.recipe.seed, "model", batch[0][0]))  # what the detector draws, whoever does the work
        images = [image.to(device, non_blocking=True) for _, image, _ in batch]
        truths = [{name: value.to(device, non_blocking=True) for name, value in truth.items()} for _, _, truth in batch]
        with autocast(device, self.recipe.precision):
            loss = torch.stack(list(self.detector(images, truths).values())).sum() / passes
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _check(self, iteration: int, loss: torch.Tensor, problem: UserError | None) -> None:
        """End all processes where one has met a file that cannot be read, or a loss that is not finite."""
        if agree(problem is not None, self.world.device):
            raise problem or UserError("another process met an image that cannot be read; see its message")
        if agree(not bool(loss.isfinite()), self.world.device):
            raise UserError(
                f"the loss of iteration {iteration} is not a finite number; lower --learning-rate {self.recipe.rate:g}, "
                "or use --precision fp32"
            )

    def _keep(self, done: int) -> None:
        """Write the state. Running statistics of batch norms are the chief's: nothing reads them before the end."""
        self.curve.append((done, float(total(self.recent)) / self.world.size / (done - self.since)))
        self.recent.zero_()
        self.since = done
        if self.world.is_main:
            facts = {"curve": self.curve, "scaler": self.scaler.state_dict()}
            save_state(self.folder, done, {"detector": self.detector}, self.optimiser, facts)
            retain(self.folder, 2)
        if len(self.curve) % (POINTS // LINES) == 0 or done == self.recipe.iterations:
            notice(f"iteration {done}: loss {self.curve[-1][1]:.3f}")
