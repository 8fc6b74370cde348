"""Scores of protocols that train on crops and label images by sliding windows, for several learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densebench.backbones.backbone import Backbone
from densebench.bridges.mmsegmentation import Data, History, Setup, Validation, train
from densebench.console import notice, warn
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.errors import UserError
from densebench.evaluation.counts import Counts
from densebench.evaluation.labels import LabelSpace, classes_shown
from densebench.evaluation.learning_rates import SCORED, Course, scores_of_rates
from densebench.evaluation.option_groups import SlidingWindow
from densebench.evaluation.pictures import PANEL, legend, panel
from densebench.evaluation.protocol import Run
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.numerics import segmentation as metrics
from densebench.pictures.canvas import save
from densebench.pictures.curves import draw_curves
from densebench.processes import here, resolve_device, resolve_workers
from densebench.results.score import Point, Score

HALF = (0.5, 0.5, 0.5)
CONTEXT = ("pascal-context", "pascal-context-59")


def setup_of(options: SlidingWindow, backbone: Backbone, dataset: Dataset, **decided: Any) -> Setup:
    """Return the training set-up that the options mean for a backbone and a data set; `decided` are the protocol's own fields."""
    sides: dict[str, Any] = {"crop": options.crop_size, "scale": options.crop_size}
    if options.quirks and options.crop_size == 512 and dataset.name in CONTEXT:
        sides = {"crop": 480, "scale": 520, "long": 520, "pad": 512, "window": 512}
    mean, std = (HALF, HALF) if options.colour == "half" else (backbone.mean, backbone.std)
    return Setup(options, mean=mean, std=std, black=options.quirks and dataset.name == "voc", **sides, **decided)


def scores(
    options: SlidingWindow, backbone: Backbone, dataset: Dataset, run: Run, setup: Setup, groups: Sequence[Sequence[float]]
) -> Iterator[Score]:
    """Train the learning rates of each group side by side, one group after the other, and yield the scores of all."""
    train_items, val = (dataset.part(split, run.limit) for split in options.splits(dataset))
    space = LabelSpace(dataset, "drop", options.other_class)
    with run.stage("labels"):
        shown = classes_shown(space, train_items)
        classes_shown(space, val, label="labels to score")  # a broken one is found before the training, not after it
        if not shown.any():
            raise UserError(f"no pixel of the {len(train_items)} training images has a class; check their label maps")
    drawn = limited(val, options.visualise) if options.visualise else ()
    data = Data(dataset, train_items, val, space.names, space.read_truth)
    world, histories = here(resolve_device(options.device)), []
    workers = resolve_workers(options.workers, setup.iterations * options.train_batch)
    for rates in groups:
        with run.stage("training"), run.workspace("mmseg", world.size) as work:
            folder, names = work / digest(list(rates), 8), [item.name for item in drawn]
            histories.append(train(backbone, data, setup, rates, folder, world, drawn=names, workers=workers))
    details = {"images": len(train_items), "absent": space.absent(np.any(shown, axis=0))}
    with run.stage("scoring"):
        outcome = Outcome.of(histories, space, [item.name for item in val], options.absent)
        results = outcome.scores(options.points(dataset)[0], details)
    if run.pictures is not None and world.is_main:
        outcome.draw(dataset, drawn, run.pictures)
    yield from results  # after the pictures: a known point is not trained again, and so not drawn either


@dataclass(frozen=True)
class Measured:
    """The scores of one head at one validation: pixel counts, and their mIoU in %."""

    validation: Validation
    head: int
    counts: Counts
    miou: float


@dataclass(frozen=True)
class Outcome:
    """The best validation of every learning rate that did not diverge, and the courses of all losses."""

    space: LabelSpace
    images: Sequence[str]
    absent: str
    best: dict[float, Measured]
    courses: dict[float, Course]
    validations: int
    """How often a run was validated, at most."""

    @classmethod
    def of(cls, histories: Sequence[History], space: LabelSpace, images: Sequence[str], absent: str) -> Outcome:
        """Return the outcome of several trainings, with the best validation of each rate by mIoU, as the reference chooses."""
        best: dict[float, Measured] = {}
        courses: dict[float, Course] = {}
        for history in histories:
            for head, (rate, losses) in enumerate(history.losses.items()):
                courses[rate] = Course(losses, [f"iteration {n}" for n in history.iterations])
                if courses[rate].diverged is None:
                    measured = [measure(validation, head, space.classes, images, absent) for validation in history.validations]
                    best[rate] = max(measured, key=lambda candidate: candidate.miou)
        return cls(space, images, absent, best, courses, max(len(history.validations) for history in histories))

    def scores(self, point: Point, details: dict[str, Any]) -> list[Score]:
        """Return the scores of the point.

        The details of the best learning rate also give the iteration of its best validation, the number of validations, and the
        mIoU of MMSegmentation's IoUMetric.
        """
        absent: Any = self.absent
        by_rate: dict[float, Any] = {
            rate: partial(best.counts.scores, self.images, 0, self.space.names, absent, point, details)
            for rate, best in self.best.items()
        }
        shared: dict[str, Any] = {"validations": self.validations}
        shared |= {"chosen_on": SCORED} if self.validations > 1 else {}
        facts = {
            rate: {**shared, "iteration": best.validation.iteration, "mmseg_miou": best.validation.mmseg[best.head]}
            for rate, best in self.best.items()
        }
        return scores_of_rates(by_rate, self.courses, details, facts)

    def draw(self, dataset: Dataset, items: Sequence[Item], folder: Path) -> None:
        """Write the learning curves, and `<image>.png` (image | truth | prediction of the best learning rate) for some images."""
        draw_curves(folder / "learning-curves.png", self.courses)
        chosen = max(self.best.values(), key=lambda candidate: candidate.miou)
        saved = [item for item in items if item.name in chosen.validation.maps]
        if len(saved) < len(items):
            warn("the best validation was made before --visualise was given: it has no pictures; --rerun makes them")
        for item in saved:
            truth, prediction = torch.from_numpy(self.space.read_truth(item)), chosen.validation.maps[item.name][chosen.head]
            picture = panel(dataset, self.space, View(1), item, truth, prediction)
            save(picture, folder / f"{item.name.replace('/', '-')}.png", description=PANEL, legend=legend(dataset))
        notice(f"learning curves and pictures of {len(saved)} images are in {folder}")


def measure(validation: Validation, head: int, classes: int, images: Sequence[str], absent: str) -> Measured:
    """Return one head's pixel counts at a validation, with their mIoU in %."""
    counts, size = Counts(1, classes), classes**2
    for name in images:
        indices, pixels = validation.pairs[name]
        inside = (indices >= head * size) & (indices < (head + 1) * size)
        counts.restore(name, torch.stack([indices[inside] - head * size, pixels[inside]]))
    ious = metrics.iou(metrics.tallies(counts.confusion(images)[0]))
    return Measured(validation, head, counts, 100 * float(metrics.mean_iou(ious, absent).nan_to_num(0.0)))  # type: ignore[arg-type]
