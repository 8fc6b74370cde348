"""What the protocols through MMSegmentation share: the run in its terms, and the scores of several learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densebench.backbones import Backbone
from densebench.bridges.mmsegmentation import Data, Recipe, Trained, Validation, train
from densebench.console import notice
from densebench.datasets import Dataset, Item, limited
from densebench.distributed import here
from densebench.errors import UserError
from densebench.evaluation.counts import Counts
from densebench.evaluation.labels import LabelSpace, classes_shown
from densebench.evaluation.learning_rates import SCORED, Course, scores_of_rates
from densebench.evaluation.option_groups import SlidingWindow
from densebench.evaluation.pictures import panel
from densebench.evaluation.protocol import Run
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.numerics import segmentation as metrics
from densebench.pictures.canvas import save
from densebench.pictures.curves import draw_curves
from densebench.processes import resolve_device, resolve_workers
from densebench.results.score import Point, Score

HALF = (0.5, 0.5, 0.5)
CONTEXT = ("pascal-context", "pascal-context-59")


def recipe(options: SlidingWindow, backbone: Backbone, dataset: Dataset, **own: Any) -> Recipe:
    """The run in MMSegmentation's terms; `own` is what the protocol decides."""
    assert options.iterations is not None and options.stride is not None, "resolve first"
    half = options.colour == "half"
    sides: dict[str, Any] = {"crop": options.crop_size, "scale": options.crop_size}
    if options.quirks and options.crop_size == 512 and dataset.name in CONTEXT:
        sides = {"crop": 480, "scale": 520, "long": 520, "pad": 512, "window": 512}
    return Recipe(
        **sides,
        stride=options.stride,
        optimiser=options.optimiser,  # type: ignore[arg-type]
        weight_decay=options.weight_decay,
        schedule=options.schedule,  # type: ignore[arg-type]
        eta_min=options.eta_min,
        iterations=options.iterations,
        batch=options.train_batch,
        validations=options.validations,
        mean=HALF if half else backbone.mean,
        std=HALF if half else backbone.std,
        black=options.quirks and dataset.name == "voc",
        seed=options.train_seed,
        precision=options.precision,
        **own,
    )


def scores(
    options: SlidingWindow, backbone: Backbone, dataset: Dataset, run: Run, recipe: Recipe, groups: Sequence[Sequence[float]]
) -> Iterator[Score]:
    """Train the learning rates of each group side by side, one group after the other, and give the scores of all."""
    train_items, val = (dataset.part(split, run.limit) for split in options.splits(dataset))
    space = LabelSpace(dataset, "drop", options.other_class)
    with run.stage("labels"):
        shown = classes_shown(space, train_items)
        classes_shown(space, val, label="labels to score")  # a broken one is found before the training, not after it
        if not shown.any():
            raise UserError(f"no pixel of the {len(train_items)} training images has a class; check their label maps")
    drawn = limited(val, options.visualise) if options.visualise else ()
    data = Data(dataset, train_items, val, space.names, space.read_truth)
    world, runs = here(resolve_device(options.device)), []
    workers = resolve_workers(options.workers, recipe.iterations * recipe.batch)
    for rates in groups:
        with run.stage("training"), run.workspace("mmseg", world.size) as place:
            folder, names = place / digest(list(rates), 8), [item.name for item in drawn]
            runs.append(train(backbone, data, recipe, rates, folder, world, drawn=names, workers=workers))
    if world.is_main:
        details = {"images": len(train_items), "absent": space.absent(np.any(shown, axis=0))}
        with run.stage("scoring"):
            outcome = Outcome.of(runs, space, [item.name for item in val], options.absent)
            found = outcome.scores(options.points(dataset)[0], details)
        if run.pictures is not None:
            outcome.draw(dataset, drawn, run.pictures)
        yield from found  # after the pictures: a known point is not trained again, and so not drawn either


@dataclass(frozen=True)
class Measured:
    """One head at one of its run's validations, as counts."""

    validation: Validation
    head: int
    counts: Counts
    miou: float


@dataclass(frozen=True)
class Outcome:
    """The best validation of every learning rate that did not diverge, and the course of all losses."""

    space: LabelSpace
    images: Sequence[str]
    absent: str
    best: dict[float, Measured]
    courses: dict[float, Course]
    validations: int
    """Return how often a run was validated."""

    @classmethod
    def of(cls, runs: Sequence[Trained], space: LabelSpace, images: Sequence[str], absent: str) -> Outcome:
        """Choose among the validations by mIoU, as the reference does."""
        best: dict[float, Measured] = {}
        courses: dict[float, Course] = {}
        for run in runs:
            for head, (rate, losses) in enumerate(run.losses.items()):
                courses[rate] = Course(losses, [f"iteration {n}" for n in run.iterations])
                if courses[rate].diverged is None:
                    measured = [measure(validation, head, space.classes, images, absent) for validation in run.validations]
                    best[rate] = max(measured, key=lambda one: one.miou)
        return cls(space, images, absent, best, courses, max(len(run.validations) for run in runs))

    def scores(self, point: Point, details: dict[str, Any]) -> list[Score]:
        """Return the scores of the point; the best learning rate's also say at which iteration and of how many validations it was
        the best, and what IoUMetric gave for it."""
        absent: Any = self.absent
        by_rate: dict[float, Any] = {
            rate: partial(one.counts.scores, self.images, 0, self.space.names, absent, point, details)
            for rate, one in self.best.items()
        }
        shared: dict[str, Any] = {"validations": self.validations}
        shared |= {"chosen_on": SCORED} if self.validations > 1 else {}
        facts = {
            rate: {**shared, "iteration": one.validation.iteration, "mmseg_miou": one.validation.mmseg[one.head]}
            for rate, one in self.best.items()
        }
        return scores_of_rates(by_rate, self.courses, details, facts)

    def draw(self, dataset: Dataset, items: Sequence[Item], folder: Path) -> None:
        """Write the learning curves, and `<image>.png` (image | truth | prediction of the best learning rate) for some images."""
        draw_curves(folder / "learning-curves.png", self.courses)
        chosen = max(self.best.values(), key=lambda one: one.miou)
        there = [item for item in items if item.name in chosen.validation.maps]
        if len(there) < len(items):
            notice("the best validation was made before --visualise was asked for: it has no pictures; --rerun makes them")
        for item in there:
            truth, prediction = torch.from_numpy(self.space.read_truth(item)), chosen.validation.maps[item.name][chosen.head]
            picture = panel(dataset, self.space, View(1), item, truth, prediction)
            save(picture, folder / f"{item.name.replace('/', '-')}.png")
        notice(f"learning curves and pictures of {len(there)} images are in {folder}")


def measure(validation: Validation, head: int, classes: int, images: Sequence[str], absent: str) -> Measured:
    """The counts of one head, and their mIoU in %."""
    counts, size = Counts(1, classes), classes**2
    for name in images:
        places, pixels = validation.pairs[name]
        own = (places >= head * size) & (places < (head + 1) * size)
        counts.restore(name, torch.stack([places[own] - head * size, pixels[own]]))
    ious = metrics.iou(metrics.tallies(counts.confusion(images)[0]))
    return Measured(validation, head, counts, 100 * float(metrics.mean_iou(ious, absent).nan_to_num(0.0)))  # type: ignore[arg-type]
