"""What the cells of a table store and how long they take, before they run: by the estimates of a dry run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from densebench import catalog
from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset
from densebench.datasets.images import Images
from densebench.evaluation.estimate import Trial, declared, needed, size_of
from densebench.evaluation.plan import Requested, planned
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.evaluation.undisturbed import random_states
from densebench.processes import World, resolve_device
from densebench.tables.cells import Cell
from densebench.training.method import Pretrainer


@dataclass(frozen=True)
class Size:
    """What one cell works on, stores and takes; None where it is not estimated, and `why` says why not.

    images: whose features are extracted, or that are trained on. bytes: features, or a backbone and its states. cached: the bytes
    of these that the cache holds already.
    """

    images: int | None = None
    bytes: int | None = None
    cached: int = 0
    seconds: float | None = None
    why: str = ""


@dataclass
class Sizes:
    """Estimates cells one after the other; neighbours that share a backbone or features are estimated together.

    trial: whether stages are timed on a few images. total: the bytes of all cells so far, shared features counted once.
    """

    trial: bool = False
    total: int = 0
    _backbone: tuple[str, Backbone] | None = None
    _group: str = ""
    _stages: list[Stage] = field(default_factory=list)
    _counted: int = 0
    _known: dict[Any, float] = field(default_factory=dict)

    def load(self, requested: Requested) -> Backbone:
        """Return a backbone, the last one again where it is the same. Raises UserError where it cannot be loaded."""
        key = repr((requested.model, requested.weights, requested.reading))
        if self._backbone is None or self._backbone[0] != key:
            self._backbone, self._group, self._stages, self._known = None, "", [], {}  # before the next one is loaded
            self._backbone = key, requested.load()
        return self._backbone[1]

    def of_evaluation(self, evaluator: Evaluator, backbone: Backbone, dataset: Dataset, limit: int | None) -> Size:
        """Return what a cell with the backbone that was loaded last stores and takes. Raises UserError for what does not fit."""
        if self._group != dataset.name:
            self._group, self._stages, self._counted, self._known = dataset.name, [], 0, {}
        stages = declared(evaluator, backbone, dataset, Run(limit))
        if not stages:
            return Size(why="the protocol declares no stages")
        sizes = [size_of(stage) for stage in stages]
        self._count(stages)
        total, missing = needed(stages)
        images = sum(stage.images for stage in stages if stage.extraction is not None)
        if not self.trial:
            return Size(images, total, total - missing, why="time is estimated by a trial, which was not asked for")
        seconds = [each for each in Trial(evaluator, backbone, self._known).seconds(sizes) if each is not None]
        why = "" if seconds else "nothing short can measure how long it takes"
        return Size(images, total, total - missing, sum(seconds) if seconds else None, why)

    def of_pretraining(self, cell: Cell, chosen: Pretrainer, images: Images) -> Size:
        """Return what a pretraining on opened images stores and takes. Raises UserError for options that do not fit."""
        if not self.trial:
            return Size(len(images), why="storage and time are estimated by a trial, which was not asked for")
        from densebench.training.forecast import forecast, kept_states  # here: training imports the compiler, which takes seconds
        from densebench.training.loop import assemble

        world = World(0, 1, resolve_device(chosen.device))
        with random_states():
            training = assemble(chosen, self._encoder(cell, chosen), images, cell.request["seed"], world)
            costs, steps = forecast(training), training.steps
        stored = costs.backbone + kept_states(training) * costs.state
        self.total += stored
        if costs.seconds is None:
            return Size(len(images), stored, why="two steps here would take too long")
        return Size(len(images), stored, seconds=steps * costs.seconds)

    def _count(self, stages: list[Stage]) -> None:
        """Add to the total what the group's features have grown by these stages."""
        self._stages += stages
        counted = needed(self._stages)[0]
        self.total += counted - self._counted
        self._counted = counted

    def _encoder(self, cell: Cell, chosen: Pretrainer) -> Any:
        from densebench.training.networks import initial_encoder

        torch.manual_seed(cell.request["seed"])
        if cell.request["init"] is None:
            return chosen.encoder()
        weights = cell.request["weights"]
        file = None if weights is None else Path(weights)
        return initial_encoder(
            cell.request["init"], file, chosen.arch, chosen.image_size, chosen.drop_path, class_token=chosen.class_token
        )


def configured(cell: Cell, dataset: Dataset) -> tuple[Evaluator, Requested]:
    """Return the protocol of an evaluation for an opened data set, and its backbone, not loaded. Raises UserError as it would."""
    [model], keywords = cell.arguments()
    plan = planned(model, **{**keywords, "dataset": dataset})
    return plan.evaluator.resolve(dataset), plan.backbones[0]


def chosen_options(cell: Cell) -> Pretrainer:
    """Return the hyper-parameters of a pretraining. Raises UserError for those that do not fit."""
    from densebench.training.run import build

    request: Mapping[str, Any] = cell.request
    kind, preset = catalog.load_preset("methods", request["method"], request["preset"])
    return build(kind, request["method"], preset, request["variant"] or "official", request["init"], cell.options)
