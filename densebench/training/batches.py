"""Batches: which images a step sees, decoded, and how each of its views is drawn.

Nothing here has a state. The order of an epoch is a function of (seed, epoch), the draws of an image of (seed, epoch, image).
So a run that was killed goes on with the very same batches, on any number of processes and with any number of workers.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from densebench.device import worker_context
from densebench.errors import UserError
from densebench.training.augmentation import Draws, ViewRecipe, draw_views
from densebench.training.images import Images

Key = tuple[int, int]  # epoch, image


@dataclass(frozen=True)
class Batch:
    """Images as decoded and the draws of their views.

    pixels: the part of each image that its views show, padded at the right and below. offsets: where that part begins in the
    image (top, left). draws[v]: how view v is drawn. numbers: which images. broken: titles of files that were replaced.
    """

    pixels: UInt8[Tensor, "b 3 h w"]
    offsets: Float[Tensor, "b 2"]
    draws: tuple[Draws, ...]
    numbers: Int[Tensor, " b"]
    broken: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The batch with its pixels on a device; draws stay on the CPU."""
        return Batch(self.pixels.to(device, non_blocking=True), self.offsets, self.draws, self.numbers, self.broken)


@dataclass(frozen=True)
class Order:
    """Which images each step sees: whole batches of a permutation an epoch, each split over processes and micro-batches."""

    images: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.batch_size > self.images:
            raise UserError(
                f"--batch-size {self.batch_size}: the data has {self.images} images; give more data or a batch of at most that"
            )
        if self.batch_size % (self.world * self.accumulate):
            raise UserError(
                f"--batch-size {self.batch_size} is not a multiple of {self.world} processes x {self.accumulate} accumulated "
                "parts; change one of them"
            )

    @property
    def steps(self) -> int:
        """Steps an epoch; the images that fill no batch wait for another epoch's permutation."""
        return self.images // self.batch_size

    def micro_batches(self, first: int, last: int) -> Iterator[list[Key]]:
        """The keys of this process's micro-batches for steps first .. last - 1."""
        own = self.batch_size // self.world
        part = own // self.accumulate
        for step in range(first, last):
            epoch, number = divmod(step, self.steps)
            start = number * self.batch_size + self.rank * own
            chosen = permutation(self.images, self.seed, epoch)[start : start + own].tolist()
            for begin in range(0, own, part):
                yield [(epoch, image) for image in chosen[begin : begin + part]]


@functools.lru_cache(maxsize=2)
def permutation(images: int, seed: int, epoch: int) -> Int[Tensor, " images"]:
    """The order of one epoch."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed_of(seed, "order", epoch)))


def seed_of(*words: Any) -> int:
    """A 63-bit seed from a few words: equal words, equal seed, in every process."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "little") >> 1


class Reader(torch.utils.data.Dataset[tuple[np.ndarray, np.ndarray, int, tuple[str, ...]]]):
    """Decode an image and draw its views; a broken file is replaced by the next one and reported."""

    def __init__(self, images: Images, recipes: Sequence[ViewRecipe], seed: int) -> None:
        self.images, self.recipes, self.seed = images, tuple(recipes), seed

    def __getitem__(self, key: Key) -> tuple[np.ndarray, np.ndarray, int, tuple[str, ...]]:
        epoch, number = key
        pixels, number, broken = self._decode(number)
        generator = np.random.Generator(np.random.PCG64(seed_of(self.seed, "views", epoch, number)))
        height, width = pixels.shape[:2]
        return pixels, draw_views(self.recipes, width, height, generator), number, broken

    def _decode(self, number: int) -> tuple[np.ndarray, int, tuple[str, ...]]:
        broken: list[str] = []
        for candidate in range(number, number + len(self.images)):
            candidate %= len(self.images)
            try:
                pixels = self.images.pixels(candidate)
            except UserError:
                broken.append(self.images.title(candidate))
                continue
            return pixels, candidate, tuple(broken)
        return (
            np.zeros((1, 1, 3), np.uint8),
            number,
            tuple(broken),
        )  # nothing can be read: the count of broken files stops the run


def collate(samples: Sequence[tuple[np.ndarray, np.ndarray, int, tuple[str, ...]]]) -> Batch:
    """Join samples: of each image only the rectangle around its views is kept."""
    boxes = np.stack([draws[:, :4] for _, draws, _, _ in samples]).astype(np.int64)
    low, high = boxes[:, :, :2].min(axis=1), (boxes[:, :, :2] + boxes[:, :, 2:]).max(axis=1)
    height, width = (high - low).max(axis=0)
    channels = samples[0][0].shape[2]  # 3, or 0 where the pixels wait on the device
    pixels = torch.zeros(len(samples), channels, int(height), int(width), dtype=torch.uint8)
    for out, (image, _, _, _), (top, left), (bottom, right) in zip(pixels, samples, low, high, strict=True):
        part = torch.from_numpy(np.array(image[top:bottom, left:right]))
        out[:, : bottom - top, : right - left] = part.movedim(2, 0)
    tables = torch.from_numpy(np.stack([draws for _, draws, _, _ in samples]))
    broken = tuple(title for _, _, _, titles in samples for title in titles)
    numbers = torch.tensor([number for _, _, number, _ in samples])
    draws = tuple(Draws(tables[:, view].contiguous()) for view in range(tables.shape[1]))
    return Batch(pixels, torch.from_numpy(low).float(), draws, numbers, broken)


def load_batches(reader: Reader, keys: Iterator[list[Key]], workers: int, pin: bool) -> Iterator[Batch]:
    """Batches in the order of `keys`, decoded ahead by worker processes."""
    loader: DataLoader[Any] = DataLoader(
        reader,
        batch_sampler=_Keys(keys),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context=worker_context(workers),
        prefetch_factor=3 if workers else None,
        pin_memory=pin,
    )
    return iter(loader)


class _Keys:
    """An iterator as a batch sampler."""

    def __init__(self, keys: Iterator[list[Key]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[Key]]:
        return self.keys
