"""Protocols that train on random crops for so many iterations and score whole images by sliding windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from densebench.errors import UserError
from densebench.evaluation.supervised import Supervised, check_rates
from densebench.options import runtime, setting
from densebench.results.score import Point

if TYPE_CHECKING:
    from densebench.datasets.dataset import Dataset

ITERATIONS = 80_000
TWICE_AS_LONG = ("ade20k", "coco-stuff164k")


@dataclass(frozen=True)
class SlidingWindow(Supervised):
    """How long, on which crops, by which optimiser; the published settings are the defaults."""

    several_processes: ClassVar[bool] = True
    draws_later: ClassVar[bool] = False
    learning_rates: tuple[float, ...] = setting((), "of several the best on the scored split", minimum=0)

    iterations: int | None = setting(
        None, "of training; none: as published; others are marked as not comparable", minimum=1, maximum=100_000_000
    )
    crop_size: int = setting(512, "side of training crops and of sliding windows in px", minimum=16, maximum=16_384)
    stride: int | None = setting(None, "of the sliding window in px; none: 32 less than the crop", minimum=1, maximum=16_384)
    train_batch: int = setting(8, "images a step, on all processes together", minimum=1, maximum=65_536)
    optimiser: str = setting("adam", "of what is trained", choices=("adam", "adamw", "sgd"))
    weight_decay: float = setting(0.01, "of the optimiser", minimum=0)
    schedule: str = setting("poly", "of the learning rate; poly has the power 0.9", choices=("poly", "cosine"))
    eta_min: float = setting(0.1, "last learning rate as a share of the first (poly)", minimum=0)
    colour: str = setting("half", "mean and deviation of colours: 127.5, or the backbone's own", choices=("half", "backbone"))
    quirks: bool = setting(False, "what the reference does by accident; see the module")
    validations: int = setting(10, "times that the scored split is measured in a run; the best counts", minimum=1, maximum=1000)
    train_seed: int = setting(0, "of first weights, order and augmentation", minimum=0)
    gpus: int = runtime(1, "processes on this machine, as torchrun starts them", minimum=1, maximum=64)

    def usual_iterations(self, dataset: Dataset) -> int:
        """How long the published runs on a data set are: 80000, on ADE20K and COCO-Stuff twice that."""
        return 2 * ITERATIONS if dataset.name in TWICE_AS_LONG else ITERATIONS

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """The settings by what they mean, and whether the run is as long as the published ones."""
        return {**super().settings(dataset), "comparable": self.iterations == self.usual_iterations(dataset)}

    def resolve(self, dataset: Dataset) -> Self:
        """Name the splits, the iterations and the stride. Raises UserError for a stride or a batch that does not fit."""
        check_rates(self.learning_rates)
        stride = max(1, self.crop_size - 32) if self.stride is None else self.stride
        if stride > self.crop_size:
            raise UserError(f"--stride {stride}: windows of {self.crop_size} px would leave gaps; give {self.crop_size} at most")
        if self.train_batch % self.gpus:
            raise UserError(f"--train-batch {self.train_batch} cannot be divided among {self.gpus} processes; give a multiple")
        iterations = self.iterations or self.usual_iterations(dataset)
        return replace(super().resolve(dataset), iterations=iterations, stride=stride)

    def points(self, dataset: Dataset) -> list[Point]:
        """All training images, once."""
        return [(("fraction", 1), ("seed", None))]
