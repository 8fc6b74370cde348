"""Protocols that learn from labelled training images and are scored on other images' pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from densebench.errors import UserError
from densebench.evaluation.protocol import Evaluator
from densebench.options import axis, runtime, setting
from densebench.results.score import Point

if TYPE_CHECKING:
    import numpy as np

    from densebench.datasets.dataset import Dataset, Item


@dataclass(frozen=True)
class Supervised(Evaluator):
    """Which images are learned from, which are scored, and what counts as a class."""

    other_class: str = setting(
        "off", "where 0 is 'other', not a class: off, a dead class 0, or a class", choices=("off", "dead", "class")
    )
    absent: str = setting("skip", "classes in neither truth nor prediction", choices=("skip", "zero"))
    train_split: str | None = setting(None, "split that is learned from; none: the data set's own")
    eval_split: str | None = setting(None, "split that is scored; none: the data set's own")
    visualise: int = runtime(0, "draw so many validation images", minimum=0, maximum=100_000)

    def headline(self) -> dict[str, str]:
        """mIoU, class for class."""
        return {"metric": "miou", "variant": "identity"}

    def splits(self, dataset: Dataset) -> tuple[str, str]:
        """The split that is learned from and the split that is scored."""
        return self.train_split or dataset.train_split, self.eval_split or dataset.val_split

    def resolve(self, dataset: Dataset) -> Self:
        """Name the splits."""
        train, scored = self.splits(dataset)
        return replace(self, train_split=train, eval_split=scored)


def check_rates(rates: Sequence[float]) -> None:
    """Raise UserError where a learning rate is given twice: scores are called by it."""
    names = [f"{rate:g}" for rate in rates]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--learning-rates {','.join(names)}: {twice[0]} is given twice; give it once")


@dataclass(frozen=True)
class FewShot(Supervised):
    """The same from fractions of the training images, which are resized as a whole."""

    image_size: int | None = setting(
        None, "side in px, a multiple of the stride; none: 512 rounded down to it", minimum=1, maximum=16_384
    )
    resample: str = setting("bilinear", "how images are resized", choices=("bilinear", "bicubic"))
    subsets: str = setting("balanced", "how fractions are drawn", choices=("balanced", "uniform"))
    subset_dir: str | None = setting(None, "folder of lists of image names instead, as of open-hummingbird-eval")
    subset_missing: str = setting("error", "names of a list that are not in the data set", choices=("error", "skip"))
    fractions: tuple[int, ...] = axis((1,), "f means 1/f of the training images", minimum=1, maximum=1_000_000)
    seeds: int = axis(5, "subsets of every fraction above 1", minimum=1, maximum=10_000)

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """The settings, by what they mean: a size given is the same size hinted, a folder of lists is what the lists hold."""
        from densebench.evaluation.subsets import lists_digest

        lists = None if self.subset_dir is None else lists_digest(Path(self.subset_dir), dataset.name)
        return {**super().settings(dataset), "image_size": self.image_size or dataset.image_size_hint, "subset_dir": lists}

    def points(self, dataset: Dataset) -> list[Point]:
        """Fraction 1 once; every other fraction for each seed."""
        from densebench.evaluation.subsets import read_subset

        found: list[Point] = []
        for fraction in dict.fromkeys(self.fractions):
            seeds: Sequence[int | None] = [None] if fraction == 1 else list(range(self.seeds))
            if fraction > 1 and self.subset_dir is not None:
                names = [item.name for item in dataset.items(self.splits(dataset)[0])]
                lists = read_subset(Path(self.subset_dir), dataset.name, fraction, names, self.subset_missing)
                seeds = list(lists)[: self.seeds]
            found += [(("fraction", fraction), ("seed", seed)) for seed in seeds]
        return found

    def choose(self, dataset: Dataset, train: Sequence[Item], points: Sequence[Point]) -> np.ndarray:
        """Which training images each point sees: bool [points, images]. Subsets of one seed are nested."""
        import numpy as np

        from densebench.evaluation.subsets import balanced_order, read_subset, subset_size, uniform_order

        chosen = np.zeros((len(points), len(train)), dtype=bool)
        names = [item.name for item in train]
        shows = np.zeros((len(train), 0), dtype=bool)
        if self.subsets == "balanced" and self.subset_dir is None and any(dict(point)["fraction"] > 1 for point in points):
            shows = np.delete(dataset.presence(train), [] if dataset.background is None else dataset.background, axis=1)
        for row, point in zip(chosen, points, strict=True):
            fraction, seed = dict(point)["fraction"], dict(point)["seed"]
            if fraction == 1:
                row[:] = True
            elif self.subset_dir is not None:
                row[read_subset(Path(self.subset_dir), dataset.name, fraction, names, self.subset_missing)[seed]] = True
            elif self.subsets == "balanced":
                row[balanced_order(shows, seed)[: subset_size(len(train), fraction, shows.shape[1])]] = True
            else:
                row[uniform_order(len(train), seed)[: subset_size(len(train), fraction, None)]] = True
        return chosen
