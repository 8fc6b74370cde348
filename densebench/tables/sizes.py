"""What the cells of a table store and how long they take, before they run: by a quick estimate, or by a trial of each."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

TRIAL, PASS = "a trial", "one forward pass"
"""How the time of a cell is known."""


@dataclass(frozen=True)
class Size:
    """What one cell works on, stores and takes; None where it is not estimated, and `why` says why not.

    images: how many are extracted or trained on. bytes: features, or a backbone and its states. cached: how many of these bytes
    the cache holds already. seconds: of the whole cell, or at least this where `partly`. by: how they are known.
    """

    images: int | None = None
    bytes: int | None = None
    cached: int = 0
    seconds: float | None = None
    why: str = ""
    partly: bool = False
    by: str = ""


@dataclass
class Sizes:
    """Estimates cells one after the other; neighbours that share a backbone or features are estimated together.

    results: the folder of earlier records, whose times are used. trial: whether each stage is timed on a few images instead, and
    two steps of each pretraining. total: the bytes of all cells so far, shared features counted once.
    """

    results: Path
    trial: bool = False
    total: int = 0
    _backbone: tuple[str, Backbone] | None = None
    _group: str = ""
    _stages: list[Stage] = field(default_factory=list)
    _counted: int = 0
    _known: dict[Any, float] = field(default_factory=dict)
    _encoders: tuple[Any, Any] | None = None

    @functools.cached_property
    def _speeds(self) -> Any:
        from densebench.tables.speeds import Speeds

        return Speeds(self.results)

    def load(self, requested: Requested) -> Backbone:
        """Return a backbone, the last one again where it is the same. Raises UserError where it cannot be loaded."""
        key = repr((requested.model, requested.weights, requested.reading))
        if self._backbone is None or self._backbone[0] != key:
            self._backbone, self._group, self._stages, self._known = None, "", [], {}  # before the next one is loaded
            self._backbone = key, requested.load()
        return self._backbone[1]

    def of_evaluation(self, evaluator: Evaluator, preset: str, backbone: Backbone, dataset: Dataset, limit: int | None) -> Size:
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
        size = Size(images, total, total - missing)
        if not self.trial:
            features = self._speeds.features(stages, [each.lacking for each in sizes], evaluator)
            rest = self._speeds.rest(evaluator, preset, backbone, dataset, limit)
            if rest is not None:
                return replace(size, seconds=features + rest, by=f"{PASS} and an earlier record")
            if not features:
                return replace(size, why="no earlier record says how long it takes once there are features")
            return replace(size, seconds=features, partly=True, by=PASS)
        seconds = [each for each in Trial(evaluator, backbone, self._known).seconds(sizes) if each is not None]
        why = "" if seconds else "nothing short can measure how long it takes"
        return replace(size, seconds=sum(seconds) if seconds else None, why=why, by=TRIAL if seconds else "")

    def of_pretraining(self, cell: Cell, chosen: Pretrainer, images: Images) -> Size:
        """Return what a pretraining on opened images stores and takes. Raises UserError for options that do not fit."""
        from densebench.training.forecast import forecast, kept_states  # here: training imports the compiler, which takes seconds
        from densebench.training.loop import assemble

        if not self.trial:
            return self._quickly(cell, chosen, images)

        world = World(0, 1, resolve_device(chosen.device))
        with random_states():
            training = assemble(chosen, self._encoder(cell, chosen), images, cell.request["seed"], world)
            costs, steps = forecast(training), training.steps
        stored = costs.backbone + kept_states(training) * costs.state
        self.total += stored
        if costs.seconds is None:
            return Size(len(images), stored, why="two steps here would take too long")
        return Size(len(images), stored, seconds=steps * costs.seconds, by=TRIAL)

    def _quickly(self, cell: Cell, chosen: Pretrainer, images: Images) -> Size:
        """Return what a pretraining stores by arithmetic, and what it takes by one forward pass of each size of views."""
        from densebench.training.batches import Order
        from densebench.training.forecast import stored_bytes

        order = Order(len(images), chosen.batch_size, cell.request["seed"], 0, 1, chosen.accumulate)
        steps = chosen.steps or chosen.epochs * order.steps
        source = (cell.request["init"], cell.request["weights"])
        key = (type(chosen), *source, chosen.arch, chosen.image_size, chosen.drop_path, chosen.class_token)
        with random_states():
            if self._encoders is None or self._encoders[0] != key:
                self._encoders = None
                self._encoders = key, self._encoder(cell, chosen)
            stored = stored_bytes(chosen, self._encoders[1], steps, order.steps)
            seconds = steps * self._speeds.step(key, self._encoders[1], chosen)
        self.total += stored
        return Size(len(images), stored, seconds=seconds, by=PASS)

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


def configured(cell: Cell, dataset: Dataset) -> tuple[Evaluator, str, Requested]:
    """Return the protocol of an evaluation for an opened data set, its preset, and its backbone, not loaded.

    Raises UserError as the evaluation would.
    """
    [model], keywords = cell.arguments()
    plan = planned(model, **{**keywords, "dataset": dataset})
    return plan.evaluator.resolve(dataset), plan.preset, plan.backbones[0]


def chosen_options(cell: Cell) -> Pretrainer:
    """Return the hyper-parameters of a pretraining. Raises UserError for those that do not fit."""
    from densebench.training.run import build

    request: Mapping[str, Any] = cell.request
    kind, preset = catalog.load_preset("methods", request["method"], request["preset"])
    return build(kind, request["method"], preset, request["variant"] or "official", request["init"], cell.options)
