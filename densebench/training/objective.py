"""What a method asks of the engine: a loss of student, teacher and views, and what it remembers between steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from densebench.errors import UserError
from densebench.numerics.crops import patch_positions
from densebench.numerics.seeds import seed_of
from densebench.training.augmentation import AugmentParams
from densebench.training.networks import Network

if TYPE_CHECKING:
    from PIL.Image import Image

    from densebench.datasets.unlabelled import Images


@dataclass(frozen=True)
class Now:
    """Where the run is: step, epoch (from 0), what its schedules say, and noise that is the same on any number of processes.

    rank and world split the noise of a whole batch; part and parts split it again over micro-batches.
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
    """Whether this step is written to the log: costly statistics wait for such a step."""

    @property
    def teacher_temp(self) -> float:
        """The teacher's temperature, where the method has prototypes."""
        return self.scheduled["teacher_temp"]

    def noise(self, images: int, *shape: int, device: torch.device, name: str = "noise") -> Float[Tensor, "images *shape"]:
        """Uniform noise in [0, 1) for the images of this micro-batch: the slice that is theirs of the whole batch's noise."""
        whole = self.common(self.world * self.parts * images, *shape, device=torch.device("cpu"), name=name)
        start = self.first(images)
        return whole[start : start + images].to(device, non_blocking=True)

    def common(self, *shape: int, device: torch.device, name: str) -> Float[Tensor, "*shape"]:
        """Uniform noise in [0, 1) that is the same in all processes and micro-batches of a step."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, name, self.step))
        return torch.rand(shape, generator=generator).to(device, non_blocking=True)

    def first(self, images: int) -> int:
        """The number of this micro-batch's first image in the whole batch."""
        return (self.rank * self.parts + self.part) * images


@dataclass(frozen=True)
class Views:
    """The views of a micro-batch: normalised pixels per view on the device, draws on the CPU, and which images they are."""

    pixels: tuple[Float[Tensor, "b 3 s s"], ...]
    draws: tuple[AugmentParams, ...]
    numbers: Int[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.numbers)

    def few(self, count: int) -> Views:
        """The first images only."""
        draws = tuple(AugmentParams(one.table[:count]) for one in self.draws)
        return Views(tuple(one[:count] for one in self.pixels), draws, self.numbers[:count])

    def positions(self, view: int, grid: tuple[int, int]) -> Float[Tensor, "b patches 2"]:
        """Where the patches of a view lie in the original images, px."""
        device = self.pixels[view].device
        boxes, flips = (part.to(device, non_blocking=True) for part in (self.draws[view].boxes, self.draws[view].flips))
        return patch_positions(boxes, flips, grid)


@dataclass
class Loss:
    """What a micro-batch costs: the total that is minimised, its terms and other figures for the log (detached scalars)."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    figures: dict[str, Tensor] = field(default_factory=dict)


def weighed(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """The weighted sum of loss terms; a term of weight 0 is left out altogether."""
    return torch.stack([weights[name] * term for name, term in terms.items() if weights[name]]).sum()


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise UserError where no term of a loss has a weight."""
    if not any(weights.values()):
        flags = " ".join(f"--{name}-weight 0" for name in weights)
        raise UserError(f"{flags}: nothing is left to learn from; give one of them a weight")


class Objective(nn.Module, ABC):
    """A loss with memory. Everything that must survive a kill is a buffer."""

    prototypes: Mapping[str, int]
    """The kinds of prototypes and how many there are, for the collapse monitor; none where a method has no prototypes."""

    @abstractmethod
    def forward(self, student: Network, teacher: Network, views: Views, now: Now) -> Loss:
        """The loss of one micro-batch. No gradient may reach the teacher; memory is only read."""

    @abstractmethod
    def commit(self, teacher: Network) -> None:
        """After the optimiser's step, before the teacher follows: let what the step has seen enter the memory."""

    @abstractmethod
    def discard(self) -> None:
        """The step was broken: forget what it has seen."""

    def pictures(self, teacher: Network, views: Views, now: Now, images: Images) -> dict[str, Image]:
        """What `--visualise` writes, by name: how the method sees a few images. Nothing by default."""
        return {}
