"""Options that several protocols share. A protocol derives from one of these classes and adds its own.

Clustered        clusters features without labels; labels only name the clusters
Supervised       learns from labelled images, is scored on the pixels of others
  FewShot        learns from fractions of the training images, which are resized as a whole
  SlidingWindow  trains on random crops for a number of iterations, scores whole images by sliding windows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Bool

from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.evaluation.subsets import balanced_order, lists_digest, read_subset, subset_size, uniform_order
from densebench.options import axis, runtime, setting
from densebench.results.score import Point

ITERATIONS = {"ade20k": 160_000, "coco-stuff164k": 160_000}
"""Iterations of the published runs with sliding windows, by data set; `USUAL_ITERATIONS` on any other."""
USUAL_ITERATIONS = 80_000


@dataclass(frozen=True)
class Clustered(Evaluator):
    """How tokens are made and clustered, and what the clusters are compared with."""

    image_size: int | None = setting(
        None, "side in px, a multiple of the stride; none: the data set's usual one, rounded down", minimum=1, maximum=16_384
    )
    standardise: bool = setting(True, "give each feature mean 0 and deviation 1 over all tokens")
    pca: int | None = setting(50, "principal components that are kept; none: all features as they are", minimum=1, maximum=65_536)
    per_cluster: int | None = setting(256, "training tokens per cluster, at most; none: all", minimum=1, maximum=1_000_000)
    init: str = setting("points", "first centroids: random tokens or k-means++", choices=("points", "k-means++"))
    iterations: int = setting(
        100, "iterations of Lloyd's algorithm, at most; with minibatch: passes over the tokens", minimum=1, maximum=1_000_000
    )
    restarts: int = setting(5, "runs from other first centroids; the one with the least inertia counts", minimum=1, maximum=1000)
    engine: str = setting(
        "torch", "K-means to use; torch and minibatch are densebench's own", choices=("torch", "minibatch", "faiss", "sklearn")
    )
    mask_size: int | None = setting(
        100, "side in px of the label maps that clusters are compared with; none: as the view has them", minimum=1, maximum=16_384
    )
    mask_resample: str = setting("nearest", "how label maps are resized to mask_size", choices=("nearest-exact", "nearest"))
    other_class: str = setting(
        "off", "label 0, 'other' (ADE20K): ignored, predicted but not scored, or a class", choices=("off", "dead", "class")
    )
    absent: str = setting("zero", "a class in neither truth nor prediction: left out of mIoU, or 0", choices=("skip", "zero"))
    eval_split: str | None = setting(None, "split that is clustered and scored; none: the data set's default")
    visualise: int = runtime(0, "pictures to draw: image, truth, clusters by class, clusters", minimum=0, maximum=100_000)

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the settings; where no image size is given, with the one that the data set suggests."""
        return {**super().settings(dataset), "image_size": self.image_size or dataset.image_size_hint}


def check_two_splits(dataset: Dataset, train: str, scored: str) -> None:
    """Raise UserError where images would be learned from and scored, of a data set whose default split is one for both.

    Such are those of protocols that learn nothing; their splits may overlap, as trainval and val.
    """
    if dataset.train_split != dataset.val_split:
        return
    shared = {item.name for item in dataset.items(train)} & {item.name for item in dataset.items(scored)}
    if not shared:
        return
    remedy = f"name two of {', '.join(dataset.splits)} by --train-split and --eval-split"
    if len(dataset.splits) == 1:
        remedy = "draw a part by seed, boxes:DIR?val=0.2" if dataset.name.startswith("boxes:") else "take another data set"
    raise UserError(f"{dataset.name}: {len(shared)} images of {scored} would be both learned from and scored; {remedy}")


@dataclass(frozen=True)
class Supervised(Evaluator):
    """Which images are learned from, which are scored, and what counts as a class."""

    other_class: str = setting(
        "off", "label 0, 'other' (ADE20K): ignored, predicted but not scored, or a class", choices=("off", "dead", "class")
    )
    absent: str = setting("skip", "a class in neither truth nor prediction: left out of mIoU, or 0", choices=("skip", "zero"))
    train_split: str | None = setting(None, "split that is learned from; none: the data set's default")
    eval_split: str | None = setting(None, "split that is scored; none: the data set's default")
    visualise: int = runtime(0, "pictures of validation images to draw", minimum=0, maximum=100_000)

    def headline(self) -> dict[str, str]:
        """Return mIoU with every predicted class compared with the class of the same number."""
        return {"metric": "miou", "variant": "identity"}


@dataclass(frozen=True)
class FewShot(Supervised):
    """Which fractions of the training images are learned from, and how images are resized."""

    image_size: int | None = setting(
        None, "side in px, a multiple of the stride; none: the data set's usual one, rounded down", minimum=1, maximum=16_384
    )
    resample: str = setting("bilinear", "how images are resized", choices=("bilinear", "bicubic"))
    subsets: str = setting("balanced", "how fractions are drawn", choices=("balanced", "uniform"))
    subset_dir: str | None = setting(None, "folder of lists of image names to use instead, like those of open-hummingbird-eval")
    subset_missing: str = setting("error", "names of a list that are not in the data set", choices=("error", "skip"))
    fractions: tuple[int, ...] = axis((1,), "f means 1/f of the training images", minimum=1, maximum=1_000_000)
    seeds: int = axis(5, "random subsets for each f above 1", minimum=1, maximum=10_000)

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the settings, with the image size that the data set suggests if none is given, and the digest of the lists."""
        lists = None if self.subset_dir is None else lists_digest(Path(self.subset_dir), dataset.name)
        return {**super().settings(dataset), "image_size": self.image_size or dataset.image_size_hint, "subset_dir": lists}

    def points(self, dataset: Dataset) -> list[Point]:
        """Return fraction 1 once, and every other fraction for each seed."""
        points: list[Point] = []
        for fraction in dict.fromkeys(self.fractions):
            seeds: Sequence[int | None] = [None] if fraction == 1 else list(range(self.seeds))
            if fraction > 1 and self.subset_dir is not None:
                names = [item.name for item in dataset.items(self.splits(dataset)[0])]
                lists = read_subset(Path(self.subset_dir), dataset.name, fraction, names, self.subset_missing)
                seeds = list(lists)[: self.seeds]
            points += [(("fraction", fraction), ("seed", seed)) for seed in seeds]
        return points

    def used(self, dataset: Dataset, train: Sequence[Item], points: Sequence[Point]) -> list[Item]:
        """Return the training images that at least one point learns from. Labels are read only where they decide that."""
        if any(dict(point)["fraction"] == 1 for point in points):
            return list(train)
        return [train[i] for i in np.flatnonzero(self.choose(dataset, train, points).any(0)).tolist()]

    def choose(self, dataset: Dataset, train: Sequence[Item], points: Sequence[Point]) -> Bool[np.ndarray, "points images"]:
        """Return which training images each point learns from. Subsets of one seed are nested."""
        chosen = np.zeros((len(points), len(train)), dtype=bool)
        names = [item.name for item in train]
        presence = np.zeros((len(train), 0), dtype=bool)
        if self.subsets == "balanced" and self.subset_dir is None and any(dict(point)["fraction"] > 1 for point in points):
            presence = np.delete(dataset.presence(train), [] if dataset.background is None else dataset.background, axis=1)
        for row, point in zip(chosen, points, strict=True):
            fraction, seed = dict(point)["fraction"], dict(point)["seed"]
            if fraction == 1:
                row[:] = True
            elif self.subset_dir is not None:
                row[read_subset(Path(self.subset_dir), dataset.name, fraction, names, self.subset_missing)[seed]] = True
            elif self.subsets == "balanced":
                row[balanced_order(presence, seed)[: subset_size(len(train), fraction, presence.shape[1])]] = True
            else:
                row[uniform_order(len(train), seed)[: subset_size(len(train), fraction, None)]] = True
        return chosen


@dataclass(frozen=True)
class SlidingWindow(Supervised):
    """How long, on which crops and by which optimiser heads are trained; the published settings are the defaults."""

    draws_later: ClassVar[bool] = False
    learning_rates: tuple[float, ...] = setting((), "learning rates; of several, the best on the scored split counts", minimum=0)

    iterations: int | None = setting(
        None,
        "training iterations; none: as published; others are marked as not comparable",
        minimum=1,
        maximum=100_000_000,
    )
    crop_size: int = setting(512, "side of training crops and of sliding windows in px", minimum=16, maximum=16_384)
    stride: int | None = setting(None, "step of the sliding window in px; none: 32 less than the crop", minimum=1, maximum=16_384)
    train_batch: int = setting(8, "images a step, on all processes together", minimum=1, maximum=65_536)
    optimiser: str = setting("adam", "optimiser of the head", choices=("adam", "adamw", "sgd"))
    weight_decay: float = setting(0.01, "weight decay of the optimiser", minimum=0)
    schedule: str = setting("poly", "schedule of the learning rate; poly has the power 0.9", choices=("poly", "cosine"))
    eta_min: float = setting(0.1, "last learning rate as a share of the first (poly)", minimum=0)
    colour: str = setting("half", "mean and deviation of colours: 127.5, or the backbone's own", choices=("half", "backbone"))
    quirks: bool = setting(False, "repeat what the reference does by accident; see the protocol's module")
    validations: int = setting(10, "how often a run scores the split; the best score counts", minimum=1, maximum=1000)
    train_seed: int = setting(0, "seed of initial weights, order and augmentation", minimum=0)

    def usual_iterations(self, dataset: Dataset) -> int:
        """Return the iterations of the published runs on a data set."""
        return ITERATIONS.get(dataset.name, USUAL_ITERATIONS)

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the settings, and whether the run is as long as the published ones."""
        return {**super().settings(dataset), "comparable": self.iterations == self.usual_iterations(dataset)}

    def resolve(self, dataset: Dataset) -> Self:
        """Fill in the splits, the iterations and the stride. Raises UserError for a stride or a batch that does not fit."""
        check_rates(self.learning_rates)
        stride = max(1, self.crop_size - 32) if self.stride is None else self.stride
        if stride > self.crop_size:
            raise UserError(f"--stride {stride}: windows of {self.crop_size} px would leave gaps; give {self.crop_size} at most")
        if self.train_batch % self.gpus:
            raise UserError(f"--train-batch {self.train_batch} cannot be divided among {self.gpus} processes; give a multiple")
        iterations = self.iterations or self.usual_iterations(dataset)
        return replace(super().resolve(dataset), iterations=iterations, stride=stride)

    def points(self, dataset: Dataset) -> list[Point]:
        """Return one point: all training images, trained once."""
        return [(("fraction", 1), ("seed", None))]

    def windows(self, dataset: Dataset, run: Run, trainings: int) -> list[Stage]:
        """Return the stages of that many trainings, whose time nothing short can measure; neither stores features."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        crops = trainings * (self.iterations or self.usual_iterations(dataset)) * self.train_batch
        scored = trainings * self.validations
        return [Stage("training on crops", train, passes=crops / len(train)), Stage("scoring by windows", val, passes=scored)]


def check_rates(rates: Sequence[float]) -> None:
    """Raise UserError where a learning rate is given twice: scores are named by it."""
    names = [f"{rate:g}" for rate in rates]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--learning-rates {','.join(names)}: {twice[0]} is given twice; give it once")
