"""Linear probe as published: a 1 x 1 convolution trained by SGD on upsampled patch features of a frozen backbone.

What public code does, each under its name:

- leopart: Ziegler and Asano, Leopart, CVPR 2022 (also TimeT, Salehi et al., ICCV 2023). 448 px; of a training image a random
  crop of 0.8 to 1 of its area, mirrored half of the time; logits and label maps at 100 x 100 while training, labels by the
  nearest neighbour; cross-entropy over labelled pixels; SGD 0.01, momentum 0.9, weight decay 1e-4, a tenth of the rate from epoch
  20 on, 25 epochs of batches of 120. Scored at 448 px, absent classes counted as 0.
- neco: NeCo (Pariza et al., ICLR 2025): as leopart, but with batches of 128, scored at 100 x 100; ADE20K with a class 0 that is
  never right. The text says 20 epochs, the configuration 25.
- croc: CrOC (Stegmuller et al., CVPR 2023) used Leopart's code (issue 1 of its repository); the settings of its appendix were not
  available.

Departures: the reference reports the best of three checkpoints on the scored split, here the last one counts; its loaders drop
the last, incomplete batch of the scored split (1408 of VOC's 1449 images remain), here all images count. `--mask-size none`
trains at full resolution, `--score-size none` scores there. `--augment none` trains on images as they are: their features come
from the cache, so that a probe takes seconds.

All learning rates and all seeds of a fraction are trained at once, each as if it were alone. Several processes divide the images
of every step and add their gradients in the order of one process. Of several learning rates the one
with the best mIoU on the scored split is reported, as the literature does, and all are recorded.

Numbers to reach (mIoU, VOC): DINO ViT-S/16 50.2 (neco; NeCo, ICLR 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.console import progress, warn
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.errors import UserError
from densebench.evals.linear.batches import Source, classes_read
from densebench.evals.linear.layers import Layers
from densebench.evaluation.labels import LabelSpace, classes_shown
from densebench.evaluation.learning_rates import Course, scores_of_rates
from densebench.evaluation.option_groups import FewShot, check_rates
from densebench.evaluation.protocol import Run
from densebench.evaluation.stages import Sample, Stage
from densebench.evaluation.whole_images import features_of, features_stage, whole_view
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.files.store import Store
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy
from densebench.numerics.sgd_layers import Heads, labelled_pixels
from densebench.options import axis, setting
from densebench.pictures.curves import draw_curves
from densebench.processes import add_all_parts, from_main, rank, resolve_device, total
from densebench.results.score import Point, Score

LEOPART = {"image_size": 448, "absent": "zero"}


@dataclass(frozen=True)
class LinearProbes(FewShot):
    """Options of the published probes; the head of this file says what the presets are."""

    draws_later: ClassVar[bool] = False
    version: ClassVar[int] = 1
    published_as: ClassVar[Mapping[str, str]] = {"neco": "linear-neco", "croc": "linear-croc"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "neco": {**LEOPART, "train_batch": 128, "score_size": 100, "other_class": "dead"},
        "leopart": {**LEOPART, "train_batch": 120},
        "croc": {**LEOPART, "train_batch": 120},
    }

    augment: str = setting(
        "crop", "augmentation of training images: random crop and mirroring, or none", choices=("crop", "none")
    )
    mask_size: int | None = setting(
        100, "side of the label maps that are learned from; none: the image's own", minimum=1, maximum=16_384
    )
    score_size: int | None = setting(
        None, "side of the label maps that are scored; none: the image's own", minimum=1, maximum=16_384
    )
    mask_resample: str = setting("nearest", "how label maps are resized to these sizes", choices=("nearest-exact", "nearest"))
    learning_rates: tuple[float, ...] = setting(
        (0.01,), "learning rates of SGD; of several the best on the scored split is the headline", minimum=0
    )
    momentum: float = setting(0.9, "momentum of SGD", minimum=0)
    weight_decay: float = setting(1e-4, "weight decay of SGD", minimum=0)
    epochs: int = setting(25, "passes over the training images", minimum=1, maximum=1_000_000)
    drop_every: int = setting(20, "epochs after which the learning rate falls to a tenth, again and again", minimum=1)
    train_batch: int = setting(128, "images a step", minimum=1, maximum=65_536)
    seeds: int = axis(
        1, "number of seeds for every fraction; a seed decides subset, initial weights and order", minimum=1, maximum=10_000
    )

    def resolve(self, dataset: Dataset) -> LinearProbes:
        """Fill in the splits. Raises UserError for a learning rate that is given twice."""
        check_rates(self.learning_rates)
        return super().resolve(dataset)

    def points(self, dataset: Dataset) -> list[Point]:
        """Return every fraction with each seed; fraction 1 too, since order and initial weights depend on the seed."""
        points: list[Point] = []
        for point in super().points(dataset):
            whole = dict(point)["fraction"] == 1
            points += [(point[0], ("seed", seed)) for seed in range(self.seeds)] if whole else [point]
        return points

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the labels, the features of the scored images, those of train (or the passes of its crops), and the layers."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        points = [point for point in self.points(dataset) if point not in run.known]
        view, space = whole_view(self, backbone, dataset), LabelSpace(dataset, "drop", self.other_class)
        used = self.used(dataset, train, points)
        passes = self.epochs * sum(1 / dict(point)["fraction"] for point in points) * len(train) / max(1, len(used))
        learned = Stage("training on random crops, without the steps of the layers", used, passes=passes)
        if self.augment == "none":
            learned = features_stage(self, backbone, dataset, used, view, "features of train")
        else:
            learned = replace(learned, sample=self.crop_sample(backbone, space, view))
        return [
            Stage("labels", [*used, *val], sample=partial(classes_read, space)),
            features_stage(self, backbone, dataset, val, view, "features of the scored split"),
            learned,
            Stage(f"steps of {len(points)} layers, and scoring", val),
        ]

    def crop_sample(self, backbone: Backbone, space: LabelSpace, view: View) -> Sample:
        """Return the sample of the stage that passes random crops through the backbone."""
        source = Source(self, backbone, space, view, [], [], None)

        def passed(items: Sequence[Item]) -> None:
            for _ in source.load([(item, source.view_of(0, 0)) for item in items]):
                pass

        return passed

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Train the points that are not known yet, those with equally many images together, and score these in one pass."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        points = [point for point in self.points(dataset) if point not in run.known]
        view = whole_view(self, backbone, dataset)
        space = LabelSpace(dataset, "drop", self.other_class)
        with run.stage("labels"):
            chosen = self.choose(dataset, train, points)
            shown = self.shown(space, train, val, points, chosen)
        with run.stage("features"):
            queries = features_of(self, backbone, dataset, val, view)
        layers = Layers(dataset, space, view, queries, resolve_device(self.device), self.score_size, self.mask_resample)
        names, absent = [item.name for item in val], cast("Any", self.absent)
        for group in _equal_sizes(chosen):
            subsets = [[train[i] for i in np.flatnonzero(chosen[row])] for row in group]
            seeds = [int(dict(points[row])["seed"]) for row in group]
            with run.stage("training"), run.workspace("probes") as folder:
                source = self.source(backbone, space, view, subsets, seeds)
                weights, curves = self.train(source, backbone.dim, space, folder)
            with run.stage("scoring"):
                counts = layers.count(val, weights.flatten(0, 1))
            for number, row in enumerate(group):
                details = {"images": len(subsets[number]), "absent": space.absent(shown[chosen[row]].any(axis=0))}
                epochs = [f"epoch {epoch}" for epoch in range(1, self.epochs + 1)]
                courses = {rate: Course(losses[:, number], epochs) for rate, losses in curves.items()}
                by_rate: dict[float, Any] = {
                    rate: partial(counts.scores, names, number * len(curves) + i, space.names, absent, points[row], details)
                    for i, rate in enumerate(curves)
                }
                scores = scores_of_rates(by_rate, courses, details)
                if run.pictures is not None and self.visualise and row == int(chosen.sum(1).argmax()):
                    best = self.learning_rates.index(scores[-1].details["learning_rate"])
                    layers.draw(limited(val, self.visualise), weights[number, best], run.pictures)
                    draw_curves(run.pictures / "learning-curves.png", courses)
                yield from scores  # after the pictures: a known point is not trained again, and so not drawn either

    def shown(
        self, space: LabelSpace, train: Sequence[Item], val: Sequence[Item], points: Sequence[Point], chosen: np.ndarray
    ) -> np.ndarray:
        """Return which classes each training image shows. All label maps are read here, so that broken ones are met before
        training.

        Raises UserError for a broken label map, naming its file, and where no pixel of a subset has a class.
        """
        shown = classes_shown(space, train, chosen.any(0))
        classes_shown(space, val, label="labels to score")
        for point, row in zip(points, chosen, strict=True):
            if not shown[row].any():
                what = f"no pixel of the {row.sum()} training images of {dict(point)} has a class"
                raise UserError(f"{what}; check their label maps")
        return shown

    def source(
        self, backbone: Backbone, space: LabelSpace, view: View, subsets: Sequence[Sequence[Item]], seeds: Sequence[int]
    ) -> Source:
        """Return the source of training batches for several subsets of equal size."""
        cached = None
        if self.augment == "none":
            used = list({item.name: item for items in subsets for item in items}.values())
            cached = features_of(self, backbone, space.dataset, used, view)
        return Source(self, backbone, space, view, subsets, seeds, cached)

    def train(
        self, source: Source, width: int, space: LabelSpace, folder: Path
    ) -> tuple[Float[Tensor, "p l d_plus_1 c"], dict[float, np.ndarray]]:
        """Return the layers after the last epoch, by subset and rate, and the losses `[epochs subsets]` of every rate.

        A killed run is resumed.
        """
        device = resolve_device(self.device)
        more = {"momentum": self.momentum, "weight_decay": self.weight_decay, "device": device}
        heads = Heads(width, space.classes, self.learning_rates, source.seeds, **more)  # type: ignore[arg-type]
        name = digest([[item.name for item in items] for items in source.subsets] + [list(source.seeds)], 16)
        store = Store(folder, {"protocol": "linear"})
        done, losses, state = from_main(partial(self.saved, store, name, len(source.seeds)))
        if done:
            heads.restore(state)
        with progress("training", self.epochs - done, "epochs") as bar:
            for epoch in range(done, self.epochs):
                factor = 0.1 ** (epoch // self.drop_every)
                moved = ((on_device(features, device), on_device(labels, device)) for features, labels in source(epoch, heads))
                steps = torch.stack([self.step(heads, features, labels, factor) for features, labels in moved])
                copies = {f"{name} {epoch + 1} {key}": HostCopy(value) for key, value in heads.state().items()}
                losses = torch.cat([losses, steps.cpu().mean(0)[None]])
                if rank() == 0:
                    store.add({**{key: copy.value() for key, copy in copies.items()}, f"{name} {epoch + 1} losses": losses})
                bar.advance()
        losses[-1][~heads.weights.isfinite().flatten(2).all(2).cpu()] = torch.nan
        for rate, curve in zip(self.learning_rates, losses.unbind(2), strict=True):
            if not curve.isfinite().all():
                warn(f"learning rate {rate:g} diverged; it is recorded as such")
        return heads.weights, {rate: losses[:, :, i].numpy() for i, rate in enumerate(self.learning_rates)}

    def saved(self, store: Store, name: str, problems: int) -> tuple[int, Tensor, dict[str, Tensor]]:
        """Return how many epochs an earlier run has trained, their losses `[epochs problems rates]`, and the heads' state."""
        done = next((epoch for epoch in range(self.epochs, 0, -1) if f"{name} {epoch} losses" in store), 0)
        if not done:
            return 0, torch.zeros(0, problems, len(self.learning_rates)), {}
        parts = [f"{part} {i}" for part in ("layer", "momentum") for i in range(len(self.learning_rates))]
        state = {part: store[f"{name} {done} {part}"].clone() for part in parts if f"{name} {done} {part}" in store}
        return done, store[f"{name} {done} losses"].clone(), state

    def step(self, heads: Heads, features: Tensor, labels: Tensor, factor: float) -> Float[Tensor, "p l"]:
        """Make a step on the images of all processes, of which these are some; return the losses before it."""
        return heads.step(features, labels, factor, pixels=total(labelled_pixels(labels)), adding=add_all_parts)


def _equal_sizes(chosen: np.ndarray) -> list[list[int]]:
    """Return groups of rows of `chosen` with equally many images, which can be trained together."""
    by_size: dict[int, list[int]] = {}
    for row, size in enumerate(chosen.sum(1).tolist()):
        by_size.setdefault(size, []).append(row)
    return list(by_size.values())
