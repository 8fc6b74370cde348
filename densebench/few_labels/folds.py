"""Folds of a cross-validation: every image is held out once, from a model that has not seen it.

Groups of images are dealt to folds class by class, the rarest first (iterative stratification, Sechidis, Tsoumakas and Vlahavas
2011), so that the training images of every fold show as many classes as possible.
"""

from __future__ import annotations

import numpy as np

from densebench.few_labels.groups import Groups

FEW = 10
"""With fewer groups each is held out alone: 5 folds of so few images would train on too little."""
TRIES = 50  # seeded deals, of which the one that lacks the fewest classes is taken


def folds_of(presence: np.ndarray, groups: Groups, folds: int, seed: int = 0) -> np.ndarray:
    """Return the fold of each image, 0..folds-1; every fold has an image, and no group is divided.

    presence: which classes each image shows, bool [images, classes]. Of fifty seeded deals the first that leaves the fewest
    classes unseen in training is taken; with fewer than ten groups, or no more groups than folds, each group is a fold.
    """
    count = groups.count
    if count < FEW or folds >= count:
        return groups.of_image.copy()
    shown = np.zeros((count, presence.shape[1]), bool)
    np.logical_or.at(shown, groups.of_image, presence)
    sizes = np.bincount(groups.of_image, minlength=count)
    deals = [_dealt(shown, sizes, folds, np.random.default_rng([seed, number])) for number in range(TRIES)]
    best = min(deals, key=lambda deal: (count_not_in_training(deal, shown), np.ptp(np.bincount(deal, sizes, folds))))
    return best[groups.of_image]


def count_not_in_training(folds: np.ndarray, presence: np.ndarray) -> int:
    """Return how often a fold's held-out images show a class that none of its training images shows."""
    return int(not_in_training(folds, presence).sum())


def not_in_training(folds: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """Return which classes a fold's held-out images show and none of its training images does, bool [folds, classes]."""
    held = [folds == fold for fold in np.unique(folds)]
    return np.stack([presence[each].any(axis=0) & ~presence[~each].any(axis=0) for each in held])


def _dealt(shown: np.ndarray, sizes: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return the fold of each group: class by class, the rarest first, to the fold with the fewest images of it.

    shown: which classes each group shows, bool [groups, classes]; sizes: how many images it has.
    """
    fold = np.full(len(shown), -1)
    classes = np.concatenate([shown, np.ones((len(shown), 1), bool)], axis=1)  # the last one is for groups without a class
    has, images = np.zeros((folds, classes.shape[1]), int), np.zeros(folds, int)
    while (left := fold < 0).any():
        counts = classes[left].sum(axis=0)
        label = min(rng.permutation(np.flatnonzero(counts)).tolist(), key=counts.__getitem__)
        for group in rng.permutation(np.flatnonzero(left & classes[:, label])).tolist():
            target = min(rng.permutation(folds).tolist(), key=lambda f: (int(has[f, label]), int(images[f])))
            fold[group] = target
            has[target] += classes[group] * sizes[group]
            images[target] += sizes[group]
    return fold
