"""A run of MMSegmentation's Runner: heads of several learning rates on one backbone. A killed run resumes from its last state."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR, OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn

from densebench.backbones.backbone import Backbone
from densebench.bridges.mmsegmentation.data import scoring_loader, training_loader
from densebench.bridges.mmsegmentation.importing import readable_checkpoints
from densebench.bridges.mmsegmentation.options import Data, Setup
from densebench.bridges.mmsegmentation.resuming import discard_damaged, has_diverged, last_iteration, read_curves, write_curves
from densebench.bridges.mmsegmentation.segmentor import SideBySide, build
from densebench.bridges.mmsegmentation.validation import Counting, HeadIoU, Validation, validations, write_facts
from densebench.bridges.mmsegmentation.whole_batch import normalise_whole_batch
from densebench.console import Progress, notice, progress
from densebench.errors import UserError
from densebench.files.atomic import appending
from densebench.processes import World, share, synchronise, total

POINTS = 50  # saved states, and points of the curves, in a run; only the last two states stay
POWER = 0.9  # exponent of polynomial decay
WARMUP_FROM = 1e-6  # share of the learning rate at which warm-up begins


@dataclass(frozen=True)
class History:
    """The validations of a run in order, and the points of its learning curves."""

    validations: list[Validation]
    iterations: np.ndarray
    losses: dict[float, np.ndarray]


def train(
    backbone: Backbone,
    data: Data,
    setup: Setup,
    rates: Sequence[float],
    folder: Path,
    world: World,
    *,
    drawn: Sequence[str] = (),
    workers: int = 0,
) -> History:
    """Train one head for each learning rate, all at once, and return validations and curves; a killed run resumes from `folder`.

    rates: the learning rates. drawn: names of images whose predicted label maps are saved. workers: processes that decode images.
    Raises UserError for a file that cannot be read, a batch that cannot be divided, and fp16 training without a GPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if world.is_main:
        discard_damaged(folder)
    synchronise()
    start, last = last_iteration(folder), folder / f"validation-{setup.iterations:08}.json"
    complete = last.exists() or has_diverged(folder)
    synchronise()  # no process writes before all have looked
    if not complete:
        with (
            appending(folder, "set DENSEBENCH_CACHE elsewhere"),
            warnings.catch_warnings(),
            readable_checkpoints(),
            progress("training", setup.iterations - start, "iterations") as bar,
        ):
            warnings.simplefilter("ignore")
            _runner(backbone, data, setup, rates, folder, world, start, drawn, workers, bar).train()
        synchronise()  # the main process has written everything
        gc.collect()  # the runner, its model and its loaders refer to each other
    points = read_curves(folder)
    losses = np.array([values for _, values in points], dtype=float).reshape(-1, len(rates))
    iterations = np.array([iteration for iteration, _ in points])
    history = History(validations(folder), iterations, {rate: losses[:, number] for number, rate in enumerate(rates)})
    synchronise()  # no process removes the folder before all have read it
    return history


def _optimiser(model: SideBySide, setup: Setup, rates: Sequence[float], device: torch.device) -> Any:
    """Return the optimiser, with a group for each learning rate; a trained backbone has a single one for all parameters."""
    kinds: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    if setup.trained:
        groups = [{"params": list(model.parameters()), "lr": rates[0]}]
    else:
        groups = [{"params": list(head.parameters()), "lr": rate} for head, rate in zip(model.decode_head, rates, strict=True)]
    more = {"momentum": 0.9} if setup.options.optimiser == "sgd" else {}
    optimiser = kinds[setup.options.optimiser](groups, weight_decay=setup.options.weight_decay, **more)
    if setup.trained and setup.options.precision == "fp16":
        if device.type != "cuda":
            raise UserError("--precision fp16 trains the backbone with scaled gradients, which takes a GPU; use bf16 or fp32")
        return AmpOptimWrapper(optimizer=optimiser, dtype="float16", loss_scale="dynamic")
    return OptimWrapper(optimizer=optimiser)


class PolyToShare(PolyLR):
    """Polynomial decay that ends, in every group, at `share` of the initial learning rate."""

    def __init__(self, optimizer: Any, *, share: float, **settings: Any) -> None:
        self.share = share
        super().__init__(optimizer, **settings)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [group[self.param_name] for group in self.optimizer.param_groups]
        factor = (1 - 1 / (self.total_iters - self.last_step + 1)) ** self.power
        lowest = [self.share * value for value in self.base_values]
        groups = zip(self.optimizer.param_groups, lowest, strict=True)
        return [(group[self.param_name] - low) * factor + low for group, low in groups]


def schedulers(setup: Setup, optimiser: Any) -> list[Any]:
    """Return the schedules of a run, stepped once an iteration."""
    if setup.options.schedule == "poly":
        return [PolyToShare(optimiser, share=setup.options.eta_min, power=POWER, begin=0, end=setup.iterations, by_epoch=False)]
    rise = round(setup.warmup * setup.iterations)
    parts: list[Any] = []
    rise = 0 if rise < 2 else rise  # a warm-up of one iteration would never end
    if rise:
        parts.append(LinearLR(optimiser, start_factor=WARMUP_FROM, begin=0, end=rise, by_epoch=False))
    fall = {"T_max": setup.iterations - rise, "begin": rise, "end": setup.iterations, "by_epoch": False}
    return [*parts, CosineAnnealingLR(optimiser, eta_min=0.0, **fall)]


def _runner(
    backbone: Backbone, data: Data, setup: Setup, rates: Sequence[float], folder: Path, world: World, start: int,
    drawn: Sequence[str], workers: int, bar: Progress,
) -> Runner:  # fmt: skip
    model = build(backbone, data, setup, rates)
    counting = Counting(len(rates), len(data.classes), folder, drawn)
    optimiser = _optimiser(model, setup, rates, world.device)
    loop = {"max_iters": setup.iterations, "val_interval": math.ceil(setup.iterations / setup.options.validations)}
    saving = {"type": "CheckpointHook", "by_epoch": False, "interval": _interval(setup)}
    saving |= {"max_keep_ckpts": 2}  # of two, the older one may be removed before the newer one is complete
    return _Runner(
        world.device,
        setup.trained,
        model=model,
        work_dir=str(folder),
        train_dataloader=training_loader(data, setup, world, start, workers),
        train_cfg={"type": Iterations, "folder": folder, **loop},
        optim_wrapper=optimiser,
        param_scheduler=schedulers(setup, optimiser.optimizer),
        val_dataloader=scoring_loader(data, setup, world, workers),
        val_cfg={"type": "ValLoop"},
        val_evaluator=[counting, *(HeadIoU(number, folder) for number in range(len(rates)))],
        default_hooks={"logger": None, "sampler_seed": None, "checkpoint": saving, "runtime_info": Facts()},
        custom_hooks=[Report(folder, setup, len(rates), world, start, counting, bar)],
        resume=start > 0,
        launcher="pytorch" if world.size > 1 else "none",
        log_level="ERROR",
        randomness={"seed": setup.options.train_seed},
        default_scope="mmseg",
        experiment_name=f"{folder.name}-{id(model):x}",
    )


def _interval(setup: Setup) -> int:
    """Return the number of iterations between states, and between points of the curves."""
    return max(1, setup.iterations // POINTS)


class _Runner(Runner):
    """The Runner, on the requested device instead of the one that mmengine would choose."""

    def __init__(self, device: torch.device, unused: bool, **settings: Any) -> None:
        """unused: whether some parameters may have no gradient, such as the mask token of a trained backbone."""
        self.device, self.unused = device, unused
        super().__init__(**settings)

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """Move the model to the device, and share it among processes."""
        model = model.to(self.device)
        if not self.distributed:
            return model
        on_gpu = self.device.type == "cuda"
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if on_gpu else normalise_whole_batch(model)
        devices = [self.device.index] if self.device.type == "cuda" else None
        return MMDistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=self.unused)


class Facts(RuntimeInfoHook):
    """mmengine's record of a run, without its losses: to record them, the host would wait for the GPU five times an iteration."""

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Record nothing; `Report` keeps the losses."""


class Iterations(IterBasedTrainLoop):
    """The training loop. Data continue after the last iteration of the state; a validation that was killed is repeated."""

    def __init__(self, *arguments: Any, folder: Path, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.folder = folder

    def run(self) -> nn.Module:
        """Train and validate up to the last iteration, and return the model."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self._validate()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _validate(self) -> None:
        due = self._iter and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        if due and not (self.folder / f"validation-{self._iter:08}.json").exists():
            self.runner.val_loop.run()


class Report(Hook):
    """Seeds each iteration, writes curves and validations, shows progress, and raises the errors that the loaders return."""

    def __init__(
        self, folder: Path, setup: Setup, heads: int, world: World, start: int, counting: Counting, bar: Progress
    ) -> None:
        self.folder, self.setup, self.heads, self.world, self.counting, self.bar = folder, setup, heads, world, counting, bar
        self.every = _interval(setup)
        self.points = [point for point in read_curves(folder) if point[0] <= start]
        self.recent: list[Tensor] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the model's random draws by the run's seed and the iteration: alike in all processes, see `whole_batch`."""
        _raise(data_batch)
        torch.manual_seed((self.setup.options.train_seed * 1_000_003 + runner.iter) * 1024)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add the losses of an iteration; at every interval write the curves, and stop once all learning rates have diverged.

        Losses stay on their device until then, so that the host waits for a GPU at intervals only.
        """
        self.recent.append(torch.stack([outputs[f"loss_{number}"].detach() for number in range(self.heads)]))
        done = runner.iter + 1
        if done % self.every == 0 or done == self.setup.iterations:
            means = torch.tensor(torch.stack(self.recent).double().cpu().numpy().mean(axis=0), device=self.world.device)
            means[[not finite for finite in _finite(runner.model, self.heads)]] = torch.nan
            losses = total(means) / self.world.size
            self.points.append((done, losses.tolist()))
            self.recent = []
            if self.world.is_main:
                write_curves(self.folder, self.points)
            runner.train_loop.stop_training = not bool(losses.isfinite().any())
        if self.world.is_main:
            self.bar.advance()

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Raise the UserError of an image that cannot be read."""
        _raise(data_batch)

    def before_val(self, runner: Runner) -> None:
        """Set the iteration of the counts, and give every process the batch norm statistics of the first one."""
        self.counting.iteration = runner.iter
        share(list(runner.model.buffers()))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Complete the validation and print its scores."""
        assert metrics is not None
        if self.world.is_main:
            scores = write_facts(self.folder, runner.iter, metrics, self.heads)
            notice(f"iteration {runner.iter}: mIoU {', '.join(f'{value:.2f}' for value in scores)}")


def _finite(model: Any, heads: int) -> list[bool]:
    """Return for each head whether all of its parameters are finite, and those of a trained backbone."""
    model = getattr(model, "module", model)
    parts = [[*model.backbone.parameters(), *model.decode_head[number].parameters()] for number in range(heads)]
    finite = [torch.stack([parameter.isfinite().all() for parameter in part]).all() for part in parts]
    return torch.stack(finite).tolist()


def _raise(batch: Any) -> None:
    if isinstance(batch, UserError):
        raise batch
