"""Fractions of the training images: which points a run has, and which images each of them sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from densebench.datasets import Dataset, Item
from densebench.datasets.subsets import balanced_order, read_subset, subset_size, uniform_order
from densebench.evaluator import Point


class FewShot(Protocol):
    """The options of a protocol that trains on fractions: see those of the same names in `incontext`."""

    @property
    def fractions(self) -> tuple[int, ...]: ...
    @property
    def seeds(self) -> int: ...
    @property
    def subsets(self) -> str: ...
    @property
    def subset_dir(self) -> str | None: ...
    @property
    def subset_missing(self) -> str: ...
    def splits(self, dataset: Dataset) -> tuple[str, str]: ...


def points_of(options: FewShot, dataset: Dataset) -> list[Point]:
    """Fraction 1 once; every other fraction for each seed."""
    found: list[Point] = []
    for fraction in dict.fromkeys(options.fractions):
        seeds: Sequence[int | None] = [None] if fraction == 1 else list(range(options.seeds))
        if fraction > 1 and options.subset_dir is not None:
            names = [item.name for item in dataset.items(options.splits(dataset)[0])]
            lists = read_subset(Path(options.subset_dir), dataset.name, fraction, names, options.subset_missing)
            seeds = list(lists)[: options.seeds]
        found += [(("fraction", fraction), ("seed", seed)) for seed in seeds]
    return found


def choose(options: FewShot, dataset: Dataset, train: Sequence[Item], points: Sequence[Point]) -> np.ndarray:
    """Which training images each point sees: bool [points, images]. Subsets of one seed are nested."""
    chosen = np.zeros((len(points), len(train)), dtype=bool)
    names = [item.name for item in train]
    shows = np.zeros((len(train), 0), dtype=bool)
    if options.subsets == "balanced" and options.subset_dir is None and any(dict(point)["fraction"] > 1 for point in points):
        shows = np.delete(dataset.presence(train), [] if dataset.background is None else dataset.background, axis=1)
    for row, point in zip(chosen, points, strict=True):
        fraction, seed = dict(point)["fraction"], dict(point)["seed"]
        if fraction == 1:
            row[:] = True
        elif options.subset_dir is not None:
            row[read_subset(Path(options.subset_dir), dataset.name, fraction, names, options.subset_missing)[seed]] = True
        elif options.subsets == "balanced":
            row[balanced_order(shows, seed)[: subset_size(len(train), fraction, shows.shape[1])]] = True
        else:
            row[uniform_order(len(train), seed)[: subset_size(len(train), fraction, None)]] = True
    return chosen
