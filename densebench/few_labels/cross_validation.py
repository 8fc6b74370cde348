"""Predictions of images by models that were not trained on them: one for each fold, on all of its training images or fewer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from densebench.backbones.backbone import Backbone
from densebench.console import Progress, silenced
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evaluation.labelling import Labeller, Learned, counted

LEAST_IMAGES = 2
"""Fewest images that a model of a learning curve learns from."""
KEPT = 2**30  # bytes of label maps that stay in memory


@contextmanager
def labels_in_memory(dataset: Dataset, most: int = KEPT) -> Iterator[None]:
    """Read each label map once during the block, as far as they take at most `most` bytes: every model asks for them again."""
    known: dict[str, np.ndarray] = {}
    read = dataset.label

    def label(item: Item) -> np.ndarray:
        if item.name in known:
            return known[item.name].copy()
        found = read(item)
        if sum(each.nbytes for each in known.values()) + found.nbytes <= most:
            known[item.name] = found.copy()
        return found

    object.__setattr__(dataset, "label", label)  # before the method of the class, and for this object alone
    try:
        yield
    finally:
        object.__delattr__(dataset, "label")


@dataclass(frozen=True)
class Training:
    """Which images the models learn from: `images[fold]` are indices. size: their least number in a fold."""

    images: tuple[np.ndarray, ...]
    size: int


@dataclass(frozen=True)
class Tallies:
    """What `segmentation.tallies` counts of each image by models that have not seen it.

    names: of the classes. whole: with all training images of a fold, int [images 3 classes]. smaller: number of training
    images -> with so many, one for each repetition.
    """

    names: tuple[str, ...]
    whole: np.ndarray
    smaller: dict[int, list[np.ndarray]]


def trainings(folds: np.ndarray) -> Training:
    """Return the training images of every fold: those of the others."""
    images = tuple(np.flatnonzero(folds != fold) for fold in np.unique(folds))
    return Training(images, min(map(len, images)))


def smaller_trainings(whole: Training, shares: Sequence[int], repetitions: int, seed: int) -> list[list[Training]]:
    """Return for each share 1/s, the smallest first, `repetitions` random subsets of the training images of every fold.

    Those of one repetition are nested, as if labels were added. Shares that leave fewer than two images are left out.
    """
    orders = [
        [np.random.default_rng([seed, repetition, fold]).permutation(images) for fold, images in enumerate(whole.images)]
        for repetition in range(repetitions)
    ]
    sizes = sorted({whole.size // share for share in shares if share > 1 and whole.size // share >= LEAST_IMAGES})
    return [[Training(tuple(np.sort(order[:size]) for order in each), size) for each in orders] for size in sizes]


@dataclass(frozen=True)
class CrossValidation:
    """Labelled images and how they are held out; `tallies` predicts them by a backbone and a protocol."""

    dataset: Dataset
    items: Sequence[Item]
    folds: np.ndarray
    shares: Sequence[int]
    repetitions: int
    seed: int

    def models(self, with_curve: bool) -> int:
        """Return how many models `tallies` makes."""
        whole = trainings(self.folds)
        small = smaller_trainings(whole, self.shares, self.repetitions, self.seed) if with_curve else []
        return len(whole.images) * (1 + sum(map(len, small)))

    def tallies(self, evaluator: Labeller, backbone: Backbone, with_curve: bool, progress: Progress) -> Tallies:
        """Return what is counted of every image; `progress` advances with every model.

        with_curve: also with fewer training images; a size from which a model cannot learn is left out. Raises UserError as the
        protocol does.
        """
        whole = trainings(self.folds)
        learn = partial(evaluator.learn, backbone, self.dataset)
        first = learn([self.items[i] for i in whole.images[0]])
        first.features(self.dataset, self.items)  # shown while it takes long; afterwards the cache has them
        of_whole = self._of(evaluator, backbone, whole, progress, first)
        smaller: dict[int, list[np.ndarray]] = {}
        for group in smaller_trainings(whole, self.shares, self.repetitions, self.seed) if with_curve else []:
            try:
                smaller[group[0].size] = [self._of(evaluator, backbone, each, progress) for each in group]
            except UserError:  # such as fewer patches than neighbours
                continue
        return Tallies(tuple(first.names), of_whole, smaller)

    def _of(
        self, evaluator: Labeller, backbone: Backbone, training: Training, progress: Progress, first: Learned | None = None
    ) -> np.ndarray:
        """Return what is counted of every image; first: what was learned for the first fold, if it was already."""
        rows: dict[int, np.ndarray] = {}
        for number, (fold, images) in enumerate(zip(np.unique(self.folds), training.images, strict=True)):
            held = np.flatnonzero(self.folds == fold)
            with silenced():
                known = first if number == 0 else None
                learned = known or evaluator.learn(backbone, self.dataset, [self.items[i] for i in images])
                items = [self.items[i] for i in held.tolist()]
                counts = counted(learned, items)
            tally = counts.tallies([item.name for item in items], 0, torch.arange(len(learned.names)))
            rows |= dict(zip(held.tolist(), tally.numpy(), strict=True))
            progress.advance()
        return np.stack([rows[number] for number in range(len(self.items))])


def most_frequent(tally: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the tally of predicting, everywhere in a fold, the class with the most pixels in its training images."""
    truth = tally[:, 1]
    result = np.zeros_like(tally)
    result[:, 1] = truth
    for fold in np.unique(folds):
        held = folds == fold
        label = int(truth[~held].sum(0).argmax())
        result[held, 0, label] = truth[held, label]
        result[held, 2, label] = truth[held].sum(-1)
    return result
