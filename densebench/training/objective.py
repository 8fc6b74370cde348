"""The objective of a method: a loss of student, teacher and views, with memory between steps, and what it gets and returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor, nn

from densebench.datasets.images import Images
from densebench.errors import UserError
from densebench.numerics.crops import patch_positions
from densebench.numerics.device_copy import on_device
from densebench.numerics.seeds import seed_of
from densebench.training.augmentation import AugmentParams
from densebench.training.distillation import Centre
from densebench.training.networks import Network


@dataclass(frozen=True)
class StepContext:
    """A step of a run: step and epoch (from 0), the values of the schedules, and the step's random numbers.

    The random numbers of an image depend neither on the number of processes nor on micro-batches: those of the whole batch are
    drawn, then split by rank and world, and again by part and parts.
    """

    step: int
    epoch: int
    epochs: float
    scheduled: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    rank: int = 0
    world: int = 1
    part: int = 0
    parts: int = 1
    logging: bool = False
    """Whether this step is logged; costly figures are computed for logged steps only."""

    @property
    def teacher_temp(self) -> float:
        """The teacher's temperature, where the method has prototypes."""
        return self.scheduled["teacher_temp"]

    def noise(self, images: int, *shape: int, device: torch.device, name: str = "noise") -> Float[Tensor, "images *shape"]:
        """Return uniform noise in [0, 1) for the images of this micro-batch: their slice of the whole batch's noise."""
        whole = self._drawn((self.world * self.parts * images, *shape), name)
        start = self.first(images)
        return on_device(whole[start : start + images], device)

    def common(self, *shape: int, device: torch.device, name: str) -> Float[Tensor, "*shape"]:
        """Return uniform noise in [0, 1) that is the same in all processes and micro-batches of a step."""
        return on_device(self._drawn(shape, name), device)

    def _drawn(self, shape: tuple[int, ...], name: str) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed_of(self.seed, name, self.step)))

    def first(self, images: int) -> int:
        """Return the index of this micro-batch's first image in the whole batch."""
        return (self.rank * self.parts + self.part) * images


@dataclass(frozen=True)
class Views:
    """The views of a micro-batch.

    pixels: normalised, one tensor per view, on the device. draws: the random parameters of each view, on the CPU. numbers: of the
    images in the data set.
    """

    pixels: tuple[Float[Tensor, "b 3 _ _"], ...]
    draws: tuple[AugmentParams, ...]
    numbers: Int[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.numbers)

    def few(self, count: int) -> Views:
        """Return the views of the first `count` images."""
        draws = tuple(view.first(count) for view in self.draws)
        return Views(tuple(view[:count] for view in self.pixels), draws, self.numbers[:count])

    def positions(self, view: int, grid: tuple[int, int]) -> Float[Tensor, "b patches 2"]:
        """Return the centres of the patches of a view in the original images, px."""
        draws = self.draws[view].on(self.pixels[view].device)
        return patch_positions(draws.boxes, draws.flips, grid)


@dataclass
class Loss:
    """The loss of a micro-batch: the total that is minimised, its terms, and other figures for the log (detached scalars)."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    figures: dict[str, Tensor] = field(default_factory=dict)


def weighed(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """Return the weighted sum of loss terms; a term of weight 0 is left out altogether."""
    return torch.stack([weights[name] * term for name, term in terms.items() if weights[name]]).sum()


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise UserError where no term of a loss has a weight."""
    if not any(weights.values()):
        flags = " ".join(f"--{name}-weight 0" for name in weights)
        raise UserError(f"{flags}: nothing is left to learn from; give one of them a weight")


def shares(mask: Tensor, group: int) -> Tensor:
    """Return the weight of each object `[b k]` in a mean over the objects of a group of images, then over groups.

    mask: which objects count, `[b k]`; the others have weight 0. group: number of images whose objects are averaged together (in
    the papers those of one GPU); 0: all.
    """
    counts, groups = objects_per_group(mask, group)
    return mask / counts.clamp(min=1)[:, None] / groups


def objects_per_group(mask: Tensor, group: int) -> tuple[Tensor, int]:
    """Return for each image the number of objects in its group of images, `[b]`, and the number of groups."""
    size = min(group or len(mask), len(mask))
    per_image = F.pad(mask.sum(dim=1), (0, -len(mask) % size)).view(-1, size)
    counts = per_image.sum(dim=1)
    return counts.repeat_interleave(size)[: len(mask)], len(counts)


class Objective(nn.Module, ABC):
    """A loss with memory. Whatever a resumed run needs must be a buffer."""

    prototypes: Mapping[str, int]
    """The number of prototypes by kind, for the collapse monitor; empty for a method without prototypes."""
    centres: Mapping[str, Centre]
    """The centres of the teacher's logits by kind of prototypes; a kind may have none."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = {}

    @abstractmethod
    def forward(self, student: Network, teacher: Network, views: Views, context: StepContext) -> Loss:
        """Return the loss of one micro-batch. No gradient may reach the teacher; memory is only read."""

    def commit(self, teacher: Network) -> None:
        """Update the memory (centres, queues) by this step; called after the student's and before the teacher's update."""
        for kind, centre in self.centres.items():
            centre.commit(teacher.head.prototypes(kind))

    def discard(self) -> None:
        """Leave the memory as it is, because the step's loss or a gradient was not finite."""
        for centre in self.centres.values():
            centre.discard()

    def pictures(self, teacher: Network, views: Views, context: StepContext, images: Images) -> dict[str, Image]:
        """Return the pictures that `--visualise` writes for a few images, by name. By default there are none."""
        return {}
