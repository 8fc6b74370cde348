"""Position: how well can a linear map tell from a patch's features where in the picture the patch lies?

Positions that features hold are a bias where features are compared by what they show: matches land at the same place rather than
at the same part. Known of it are effects: INSID3 (Cuttano et al., 2025) projects positional directions out before it matches,
Franca (Venkataramanan et al., 2025) removes them by a training. No work reports a number for the bias itself, so it is defined
here:

- readout-v1: pictures become squares of 224 px. Features are scaled to length 1. A ridge regression with an intercept (lambda =
  1e-3 x the mean variance of a feature) from features to the row and the column of their patch is fitted on 200 pictures, and R^2
  is that on pictures that it has not seen, the mean of rows and columns. 0: as good as the middle of the picture; below 0: worse.
  Whether positions count from 0 to 1 or from -1 to 1 changes neither the map nor R^2.

Two inputs: pictures as they are, and pictures whose patches were shuffled before the backbone, each in its own seeded order. In
the first, sky is above road; in the second what a patch shows says nothing of where it is, so what is read is position alone:
that is the number to look at.

Before and after `removed` directions are projected out (0, 5, 20, 50), as `--debias` does it, at length 1 again:
  noise    the leading positional directions of 8 images of noise (the headline: what `--debias N` would leave)
  black    those of one black image, as in INSID3
  readout  those that the regression itself reads, fitted again on what is left until there are as many: what is linear and known
Where there are fewer directions, as in the features of a network that knows no position, fewer are removed, and the record says
how many. Where features have no more dimensions than are to be removed, nothing is left to be read, which is R^2 0.

Besides: the mean absolute error in patches, and without any training the variance over positions of the mean feature at each
position, as a share of all variance. That of features without position is about 1 / pictures at most (`without_position`).

Which pictures: the map is fitted on the training split and scored on the other one; where both are the same, as in a folder of
pictures, each half is read by a map that is fitted on the other half. Halves are drawn by the bytes of pictures, so that copies
of one lie in one half, and sequences of videos stay whole; near duplicates may lie in both, and make natural pictures easier.

Numbers to reach: none are published. Random weights without position embeddings give 0 for shuffled pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from densebench.backbones.backbone import Backbone
from densebench.console import notice
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.videos import Videos
from densebench.errors import UserError
from densebench.evals.position.reading import Fold, Grids
from densebench.evals.position.scoring import KINDS, Reader
from densebench.evals.position.shuffled import ShuffledView
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.options import axis, setting
from densebench.processes import resolve_device
from densebench.results.score import Point, Score


@dataclass(frozen=True)
class Position(Evaluator):
    """Options of the read-out of positions; see the module for what the preset is."""

    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"readout-v1": {}}
    takes: ClassVar[str] = "pictures"

    image_size: int = setting(
        224, "side of the square that pictures become, in px, a multiple of the stride", minimum=1, maximum=16_384
    )
    fit_images: int = setting(200, "pictures that a map is fitted on, at most, evenly spaced", minimum=1, maximum=1_000_000)
    l2: float = setting(1e-3, "ridge of the regression, as a multiple of the mean variance of a feature", minimum=1e-9)
    shuffle_seed: int = setting(0, "seed of the orders of shuffled patches", minimum=0)
    train_split: str | None = setting(None, "split that maps are fitted on; none: the data set's own")
    eval_split: str | None = setting(None, "split that is scored; none: the data set's own")
    inputs: tuple[str, ...] = axis(
        ("natural", "shuffled"), "pictures as they are, or with shuffled patches", choices=("natural", "shuffled")
    )
    removed: tuple[int, ...] = axis((0, 5, 20, 50), "numbers of directions that are removed", minimum=0, maximum=65_536)

    def headline(self) -> dict[str, str]:
        """Return what tables show: R^2 on pictures that the map has not seen, without so many directions of noise."""
        return {"metric": "r2", "variant": "noise"}

    def decides(self) -> dict[str, Any]:
        """Return the point at which what remains is position alone: shuffled patches, nothing removed."""
        return {"input": "shuffled", "removed": 0}

    def resolve(self, dataset: Dataset) -> Position:
        """Fill in the splits, and name every input and number once."""
        inputs, removed = tuple(dict.fromkeys(self.inputs)), tuple(dict.fromkeys(self.removed))
        return replace(super().resolve(dataset), inputs=inputs, removed=removed)

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for every input and number of directions."""
        return [(("input", name), ("removed", count)) for name in self.inputs for count in self.removed]

    def folds(self, dataset: Dataset, limit: int | None) -> list[Fold]:
        """Return the pictures of each fit and those that it reads: one pair, or both halves of the only split.

        A picture that is read is never fitted on, whatever splits have in common. Raises UserError where nothing is left to fit
        on, and where the only split cannot be halved.
        """
        train, scored = self.splits(dataset)
        items = dataset.part(scored, limit)
        if train != scored:
            fit, seen = limited(dataset.part(train, limit), self.fit_images), {*dataset.image_digests(items)}
            fit = [item for item, mark in zip(fit, dataset.image_digests(fit), strict=True) if mark not in seen]
            if not fit:
                raise UserError(f"every picture of {dataset.name} {train} is in {scored} too: name another --train-split")
            return [Fold(fit, items)]
        halves = halved(dataset, items)
        if not all(halves):
            what = "sequences" if isinstance(dataset, Videos) else "different pictures"
            raise UserError(f"{dataset.name} {scored} has no two {what}: a map is fitted on one part and reads the other")
        return [Fold(limited(fit, self.fit_images), read) for fit, read in (halves, halves[::-1])]

    def extraction(self, backbone: Backbone, dataset: Dataset, items: Sequence[Item], name: str) -> Extraction:
        """Return what to extract of pictures under one of the inputs."""
        size = (backbone.multiple, self.image_size)
        view = View(*size) if name == "natural" else ShuffledView(*size, shuffle_seed=self.shuffle_seed)
        return Extraction(backbone, dataset, items, view, precision=self.precision, label=f"features of {name} pictures")

    def checked_folds(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Fold]:
        """Return the folds. Raises UserError for a size that does not fit the backbone, or gives a single patch."""
        backbone.check_size(self.image_size, self.image_size)
        if self.image_size == (patch := backbone.multiple):
            raise UserError(f"--image-size {self.image_size} is one patch of {backbone.spec}; give {2 * patch} or more")
        return self.folds(dataset, run.limit)

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the features of every input, and the reading of all points."""
        folds = self.checked_folds(backbone, dataset, run)
        open_ = [dict(point) for point in self.points(dataset) if point not in run.known]
        stages = [
            Stage(f"features of {len(items)} {name} pictures", items, self.extraction(backbone, dataset, items, name))
            for name in dict.fromkeys(point["input"] for point in open_)
            for items in involved(folds)
        ]
        passes = sum(len(KINDS) if point["removed"] else 1 for point in open_)
        read = [item for fold in folds for item in fold.read]
        return [*stages, Stage("reading", read, passes=float(passes))]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Extract the features of one input after the other, and read positions at every point that is not known yet."""
        folds = self.checked_folds(backbone, dataset, run)
        points = [point for point in self.points(dataset) if point not in run.known]
        if small := [count for count in self.removed if count >= backbone.dim]:
            shown = ", ".join(map(str, small))
            notice(f"--removed {shown}: {backbone.spec} has {backbone.dim} dimensions, so nothing is left to be read: R^2 0")
        device, side = resolve_device(self.device), self.image_size // backbone.stride
        if many := [count for count in self.removed if side**2 <= count < backbone.dim]:
            shown = ", ".join(map(str, many))
            limit = f"{side} x {side} patches have at most {side**2 - 1} directions of noise or black"
            notice(f"--removed {shown}: {limit}, which are all removed; a larger --image-size has more")
        for name in self.inputs:
            of_input = [point for point in points if dict(point)["input"] == name]
            if not of_input:
                continue
            with run.stage("features"):
                extractions = [self.extraction(backbone, dataset, items, name) for items in involved(folds)]
                grids = [Grids(self.extracted(each), (side, side), device) for each in extractions]
            most = max((count for count in self.removed if count < backbone.dim), default=0)
            reader = Reader(backbone.to(device), self.image_size, self.l2, most, folds, grids[0], grids[-1])
            for point in of_input:
                with run.stage("reading"):
                    scores = reader.scores(point)
                yield from scores


def halved(dataset: Dataset, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return two halves of some pictures, in their order: no picture, by its bytes, and no sequence of a video is in both."""
    if isinstance(dataset, Videos):
        of_frame = {frame: name for name, frames in dataset.sequences(items).items() for frame in frames}
        groups = [of_frame[item] for item in items]
    else:
        groups = dataset.image_digests(items)
    first = {*sorted({*groups}, key=lambda group: digest(["half", group]))[::2]}
    halves: tuple[list[Item], list[Item]] = ([], [])
    for item, group in zip(items, groups, strict=True):
        halves[group not in first].append(item)
    return halves


def involved(folds: Sequence[Fold]) -> list[list[Item]]:
    """Return the pictures whose features are extracted together: of two halves, all."""
    return [folds[0].fit, folds[0].read] if len(folds) == 1 else [[item for fold in folds for item in fold.read]]
