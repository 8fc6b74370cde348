"""A run of MMSegmentation's Runner: heads of several learning rates on one backbone, resumed where a killed run was."""

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
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.models import FCNHead, SegDataPreProcessor, SegmenterMaskTransformerHead
from mmseg.models.losses import CrossEntropyLoss
from torch import nn

from densebench.backbones.backbone import Backbone
from densebench.bridges.mmsegmentation.data import scoring_loader, training_loader
from densebench.bridges.mmsegmentation.importing import readable_checkpoints
from densebench.bridges.mmsegmentation.recipe import Data, Recipe
from densebench.bridges.mmsegmentation.resuming import discard_damaged, has_diverged, last_iteration, read_curves, write_curves
from densebench.bridges.mmsegmentation.schedule import schedulers
from densebench.bridges.mmsegmentation.segmentor import BatchNormHead, Frozen, SideBySide
from densebench.bridges.mmsegmentation.segmentor import Trained as TrainedBackbone
from densebench.bridges.mmsegmentation.validation import Counting, HeadIoU, Validation, validations, write_facts
from densebench.console import Progress, notice
from densebench.distributed import World, share, synchronise, total
from densebench.errors import UserError
from densebench.files.atomic import appending

POINTS = 50  # states and points of the curves in the course of a run; of the states the last two stay
HEAD_WIDTH = 64  # channels of an attention head of the mask transformer at least


@dataclass(frozen=True)
class Trained:
    """What a run gives: its validations in their order, and the mean losses of every learning rate up to some iterations."""

    validations: list[Validation]
    iterations: np.ndarray
    losses: dict[float, np.ndarray]


def train(
    backbone: Backbone,
    data: Data,
    recipe: Recipe,
    rates: Sequence[float],
    folder: Path,
    world: World,
    *,
    drawn: Sequence[str] = (),
    workers: int = 0,
) -> Trained:
    """Train one head a learning rate, all at once, and validate them now and then. What lies in `folder` is gone on with.

    Raises UserError for a file that cannot be read, a batch that cannot be divided, and fp16 training without a GPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if world.is_main:
        discard_damaged(folder)
    synchronise()
    start, last = last_iteration(folder), folder / f"validation-{recipe.iterations:08}.json"
    complete = last.exists() or has_diverged(folder)
    synchronise()  # nobody writes before everybody has looked
    if not complete:
        with appending(folder, "set DENSEBENCH_CACHE elsewhere"), warnings.catch_warnings(), readable_checkpoints():
            warnings.simplefilter("ignore")
            _runner(backbone, data, recipe, rates, folder, world, start, drawn, workers).train()
        synchronise()  # the chief has written everything
        gc.collect()  # the runner holds itself, its model and its loaders in a circle
    points = read_curves(folder)
    losses = np.array([values for _, values in points], dtype=float).reshape(-1, len(rates))
    iterations = np.array([iteration for iteration, _ in points])
    found = Trained(validations(folder), iterations, {rate: losses[:, number] for number, rate in enumerate(rates)})
    synchronise()  # nobody removes the folder before everybody has read it
    return found


def build(backbone: Backbone, data: Data, recipe: Recipe, rates: Sequence[float]) -> SideBySide:
    """The segmentor of a run."""
    torch.manual_seed(recipe.seed)
    trunk: nn.Module
    if recipe.trained:
        trunk = TrainedBackbone(backbone, recipe.drop_path)
    else:
        trunk = Frozen(backbone, recipe.precision, recipe.drop_path)
    pad, size = recipe.pad or recipe.crop, recipe.window or recipe.crop
    side = pad + -pad % backbone.stride
    window = {"mode": "slide", "crop_size": (size, size), "stride": (recipe.stride, recipe.stride)}
    return SideBySide(
        trunk,
        len(rates),
        _head(backbone.dim, len(data.classes), recipe),
        seed=recipe.seed,
        precision=recipe.precision if recipe.trained else "fp32",
        data_preprocessor=SegDataPreProcessor(
            mean=[255 * value for value in recipe.mean],
            std=[255 * value for value in recipe.std],
            bgr_to_rgb=True,
            size=(side, side),
            pad_val=0,
            seg_pad_val=255,
        ),
        test_cfg=ConfigDict(window),
    )


def _head(dim: int, classes: int, recipe: Recipe) -> dict[str, Any]:
    loss = {"type": CrossEntropyLoss, "use_sigmoid": False, "loss_weight": 1.0}
    shared = {"in_channels": dim, "channels": dim, "num_classes": classes, "align_corners": False, "loss_decode": loss}
    if recipe.head == "linear":
        return {"type": FCNHead, "num_convs": 0, "concat_input": False, "dropout_ratio": 0.0, **shared}
    if recipe.head == "batchnorm":
        loss["avg_non_ignore"] = True
        return {"type": BatchNormHead, "dropout_ratio": 0.1, **shared}
    attention_heads = next(count for count in range(max(1, dim // HEAD_WIDTH), 0, -1) if dim % count == 0)
    depth = {"num_layers": 2, "num_heads": attention_heads, "embed_dims": dim, "dropout_ratio": 0.0}
    return {"type": SegmenterMaskTransformerHead, **depth, **shared}


def _optimiser(model: SideBySide, recipe: Recipe, rates: Sequence[float], device: torch.device) -> Any:
    """One group a learning rate; of a trained backbone there is one rate, and it holds for all."""
    kinds: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    if recipe.trained:
        groups = [{"params": list(model.parameters()), "lr": rates[0]}]
    else:
        groups = [{"params": list(head.parameters()), "lr": rate} for head, rate in zip(model.decode_head, rates, strict=True)]
    more = {"momentum": 0.9} if recipe.optimiser == "sgd" else {}
    optimiser = kinds[recipe.optimiser](groups, weight_decay=recipe.weight_decay, **more)
    if recipe.trained and recipe.precision == "fp16":
        if device.type != "cuda":
            raise UserError("--precision fp16 trains the backbone with scaled gradients, which takes a GPU; use bf16 or fp32")
        return AmpOptimWrapper(optimizer=optimiser, dtype="float16", loss_scale="dynamic")
    return OptimWrapper(optimizer=optimiser)


def _runner(
    backbone: Backbone, data: Data, recipe: Recipe, rates: Sequence[float], folder: Path, world: World, start: int,
    drawn: Sequence[str], workers: int,
) -> Runner:  # fmt: skip
    model = build(backbone, data, recipe, rates)
    counting = Counting(len(rates), len(data.classes), folder, drawn)
    optimiser = _optimiser(model, recipe, rates, world.device)
    return _Runner(
        world.device,
        recipe.trained,
        model=model,
        work_dir=str(folder),
        train_dataloader=training_loader(data, recipe, world, start, workers),
        train_cfg={
            "type": Iterations,
            "max_iters": recipe.iterations,
            "val_interval": math.ceil(recipe.iterations / recipe.validations),
            "folder": folder,
        },
        optim_wrapper=optimiser,
        param_scheduler=schedulers(recipe, optimiser.optimizer),
        val_dataloader=scoring_loader(data, recipe, world, workers),
        val_cfg={"type": "ValLoop"},
        val_evaluator=[counting, *(HeadIoU(number, folder) for number in range(len(rates)))],
        default_hooks={
            "logger": None,
            "sampler_seed": None,
            "checkpoint": {
                "type": "CheckpointHook",
                "by_epoch": False,
                "interval": _every(recipe.iterations, POINTS),
                "max_keep_ckpts": 2,  # the older one goes before the newer one is whole
            },
        },
        custom_hooks=[Report(folder, recipe, len(rates), world, start, counting)],
        resume=start > 0,
        launcher="pytorch" if world.size > 1 else "none",
        log_level="ERROR",
        randomness={"seed": recipe.seed},
        default_scope="mmseg",
        experiment_name=f"{folder.name}-{id(model):x}",
    )


def _every(iterations: int, times: int) -> int:
    return max(1, iterations // times)


class _Runner(Runner):
    """The Runner on the device that was asked for, not the one that mmengine finds."""

    def __init__(self, device: torch.device, unused: bool, **settings: Any) -> None:
        """`unused`: whether some parameters may have no gradient, such as the mask token of a trained backbone."""
        self.device, self.unused = device, unused
        super().__init__(**settings)

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """Move the model to the device, and share it among processes."""
        model = model.to(self.device)
        if not self.distributed:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        places = [self.device.index] if self.device.type == "cuda" else None
        return MMDistributedDataParallel(model, device_ids=places, broadcast_buffers=False, find_unused_parameters=self.unused)


class Iterations(IterBasedTrainLoop):
    """Iterations of training, whose loader begins where the state ends; a validation that a kill took is made up for."""

    def __init__(self, *arguments: Any, folder: Path, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.folder = folder

    def run(self) -> nn.Module:
        """Train and validate to the end."""
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
    """Progress, learning curves and validations on disk; the random numbers of each iteration; errors of the loaders."""

    def __init__(self, folder: Path, recipe: Recipe, heads: int, world: World, start: int, counting: Counting) -> None:
        self.folder, self.recipe, self.heads, self.world, self.counting = folder, recipe, heads, world, counting
        self.every = _every(recipe.iterations, POINTS)
        self.bar = Progress("training", recipe.iterations - start, "iterations")
        self.points = [point for point in read_curves(folder) if point[0] <= start]
        self.recent: list[list[float]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Whatever the model draws is a function of the seed and the iteration."""
        _raise(data_batch)
        torch.manual_seed((self.recipe.seed * 1_000_003 + runner.iter) * 1024 + self.world.rank)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep the losses; write the curves now and then."""
        self.recent.append([float(outputs[f"loss_{number}"]) for number in range(self.heads)])
        done = runner.iter + 1
        if done % self.every == 0 or done == self.recipe.iterations:
            own = torch.tensor(np.mean(self.recent, axis=0), device=self.world.device)
            own[[not finite for finite in _finite(runner.model, self.heads)]] = torch.nan
            losses = total(own) / self.world.size
            self.points.append((done, losses.tolist()))
            self.recent = []
            if self.world.is_main:
                write_curves(self.folder, self.points)
            runner.train_loop.stop_training = not bool(losses.isfinite().any())
        if self.world.is_main:
            self.bar.advance()

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """An image that cannot be read ends the run with its name."""
        _raise(data_batch)

    def before_val(self, runner: Runner) -> None:
        """Counts belong to an iteration; every process scores with the statistics of the first one's batch norm."""
        self.counting.iteration = runner.iter
        share(list(runner.model.buffers()))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Close the validation and say how it went."""
        assert metrics is not None
        if self.world.is_main:
            found = write_facts(self.folder, runner.iter, metrics, self.heads)
            notice(f"iteration {runner.iter}: mIoU {', '.join(f'{value:.2f}' for value in found)}")


def _finite(model: Any, heads: int) -> list[bool]:
    """Whether the parameters of each head, and those of a trained backbone, are finite."""
    model = getattr(model, "module", model)
    parts = [[*model.backbone.parameters(), *model.decode_head[number].parameters()] for number in range(heads)]
    return [all(bool(parameter.isfinite().all()) for parameter in part) for part in parts]


def _raise(batch: Any) -> None:
    if isinstance(batch, UserError):
        raise batch
