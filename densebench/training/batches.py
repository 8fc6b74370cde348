"""Batches: the decoded images of each step, and the random parameters of their views.

Nothing here has a state. The order of an epoch is a function of (seed, epoch), the draws of an image of (seed, epoch, image).
So a resumed run gets the very same batches, on any number of processes and with any number of workers.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.datasets.dataset import limited
from densebench.datasets.images import Images
from densebench.datasets.io.loader import Batches, make_loader
from densebench.datasets.io.shared_memory import piece_size
from densebench.errors import UserError
from densebench.numerics.crops import Pictures
from densebench.numerics.packed_copy import packed_on_device
from densebench.numerics.seeds import permutation, seed_of
from densebench.training.augmentation import AugmentParams, ViewSpec, draw_views
from densebench.training.rendering import Plan, plan_views

Key = tuple[int, int]  # epoch, image
PIECE = 32  # most images that a worker decodes before it sends them
SAMPLED = 16  # images from whose sizes the memory of a batch is estimated


@dataclass(frozen=True)
class Batch:
    """Decoded images and the random parameters of their views.

    pixels: the part of each image that its views show, without padding: 3 bytes for each pixel of these parts and no more. So
    1,024 images of 500 x 375 px take at most 576 MB, and one of 2,500 x 2,500 px among them adds 19 MB. offsets: the top left
    corner of that part in the image (top, left, px). draws[v]: the parameters of view v. numbers: of the images in the data set.
    broken: titles of files that could not be decoded. plans: how a GPU renders the views; set by `on`.
    """

    pixels: Pictures
    offsets: Float[Tensor, "b 2"]
    draws: tuple[AugmentParams, ...]
    numbers: Int[Tensor, " b"]
    broken: tuple[str, ...] = ()
    plans: tuple[Plan, ...] = ()

    def on(self, device: torch.device, specs: Sequence[ViewSpec]) -> Batch:
        """Return the batch on a GPU: its pixels, and the plans and parameters by which its views are rendered.

        The host waits for no copy. The pixels are one or several copies, all else is a single one (`packed_on_device`). Offsets,
        draws and numbers stay on the host as well.
        """
        tables = np.stack([draws.table.numpy() for draws in self.draws])
        plans = plan_views(self.pixels, self.offsets, tables, specs)
        arrays = {(number, name): array for number, plan in enumerate(plans) for name, array in plan.arrays.items()}
        there = packed_on_device({"tables": tables, **arrays}, device)
        plans = tuple(
            replace(plan, arrays={name: there[number, name] for name in plan.arrays}) for number, plan in enumerate(plans)
        )
        draws = tuple(AugmentParams(own.table, table) for own, table in zip(self.draws, there["tables"], strict=True))
        return replace(self, pixels=self.pixels.to(device), draws=draws, numbers=page_locked(self.numbers, device), plans=plans)

    def pin_memory(self) -> Batch:
        """Return the batch with its pixels in page-locked memory; a loader with `pin_memory=True` calls this.

        The rest is small: `on` copies it to page-locked memory, once the pieces of a batch are joined.
        """
        return replace(self, pixels=self.pixels.pin_memory())


def page_locked(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host, in page-locked memory where the device is a GPU."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


@dataclass(frozen=True)
class Order:
    """The images of each step: whole batches of one permutation per epoch, each split over processes and micro-batches.

    Raises UserError for a batch larger than the data, or one that cannot be split equally.
    """

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
        """The number of steps in an epoch; images after the last whole batch are not used in it."""
        return self.images // self.batch_size

    def micro_batches(self, first: int, last: int) -> Iterator[list[Key]]:
        """Yield the keys (epoch, image) of each of this process's micro-batches, for steps first .. last - 1."""
        share = self.batch_size // self.world
        part = share // self.accumulate
        for step in range(first, last):
            epoch, number = divmod(step, self.steps)
            start = number * self.batch_size + self.rank * share
            chosen = permutation(self.images, self.seed, epoch)[start : start + share].tolist()
            for begin in range(0, share, part):
                yield [(epoch, image) for image in chosen[begin : begin + part]]


class Reader(torch.utils.data.Dataset[tuple[np.ndarray, np.ndarray, int, tuple[str, ...]]]):
    """Decodes an image and draws the parameters of its views; a broken file is reported and the next image taken."""

    def __init__(self, images: Images, specs: Sequence[ViewSpec], seed: int) -> None:
        self.images, self.specs, self.seed = images, tuple(specs), seed

    def __getitem__(self, key: Key) -> tuple[np.ndarray, np.ndarray, int, tuple[str, ...]]:
        epoch, number = key
        pixels, number, broken = self._decode(number)
        generator = np.random.Generator(np.random.PCG64(seed_of(self.seed, "views", epoch, number)))
        height, width = pixels.shape[:2]
        return pixels, draw_views(self.specs, width, height, generator), number, broken

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
        )  # no file can be decoded: the run stops, since too many files are broken


def collate(samples: Sequence[tuple[np.ndarray, np.ndarray, int, tuple[str, ...]]], interleaved: bool = False) -> Batch:
    """Return samples of a `Reader` as a batch; of each image it holds only the rectangle around its views.

    interleaved: whether the channels of a pixel are neighbours (`Pictures.of`), which is faster on a GPU.
    """
    boxes = np.stack([draws[:, :4] for _, draws, _, _ in samples]).astype(np.int64)
    low, high = boxes[:, :, :2].min(axis=1), (boxes[:, :, :2] + boxes[:, :, 2:]).max(axis=1)
    rectangles = zip(samples, low, high, strict=True)
    parts = [image[top:bottom, left:right] for (image, *_), (top, left), (bottom, right) in rectangles]
    pixels = Pictures.of(parts, interleaved)
    tables = torch.from_numpy(np.stack([draws for _, draws, _, _ in samples]))
    broken = tuple(title for _, _, _, titles in samples for title in titles)
    numbers = torch.tensor([number for _, _, number, _ in samples])
    draws = tuple(
        AugmentParams(tables[:, view]) for view in range(tables.shape[1])
    )  # views of one storage, so that workers send few file descriptors
    return Batch(pixels, torch.from_numpy(low).float(), draws, numbers, broken)


def join(parts: Sequence[Batch]) -> Batch:
    """Return several batches as one, in order."""
    if len(parts) == 1:
        return parts[0]
    draws = tuple(
        AugmentParams(torch.cat([params.table for params in view])) for view in zip(*(part.draws for part in parts), strict=True)
    )
    offsets, numbers = (torch.cat([getattr(part, name) for part in parts]) for name in ("offsets", "numbers"))
    broken = tuple(title for part in parts for title in part.broken)
    return Batch(Pictures.join([part.pixels for part in parts]), offsets, draws, numbers, broken)


def load_batches(reader: Reader, keys: Iterator[list[Key]], workers: int, pin: bool) -> Iterator[Batch]:
    """Yield batches in the order of `keys`, decoded ahead by worker processes.

    pin: into page-locked memory, and laid out for a GPU. A worker decodes at most PIECE images at a time. Two batches are decoded
    ahead with any number of workers, rounded up to the same number of pieces for each worker, at least two; fewer where they
    would take more shared memory than one loader may.
    """
    first = next(keys, None)
    if first is None:
        return
    pieces: deque[int] = deque()  # number of pieces of each batch that was begun
    size, image_bytes = len(first), 0
    sampling: dict[str, Any] = {}
    if workers:
        image_bytes = usual_bytes(reader.images)
        size = piece_size(image_bytes, workers, PIECE)
        held = 1 if pin else 2 * math.ceil(len(first) / size)  # unless page-locked copies replace them, a batch's parts
        ahead = max(2, math.ceil(2 * len(first) / (size * workers)))
        sampling = {"prefetch_factor": ahead, "held": held, "batch_bytes": size * image_bytes}
    batches = Batches(_cut(itertools.chain([first], keys), size, pieces))
    merge = partial(collate, interleaved=pin)
    decoded = iter(make_loader(reader, merge, workers, pin, batch_sampler=batches, **sampling))
    for part in decoded:
        rest = itertools.islice(decoded, pieces.popleft() - 1)
        yield join([part, *rest])


def usual_bytes(images: Images) -> int:
    """Return the average bytes of an image's pixels, from the headers of SAMPLED images; 0 where none can be read."""
    sizes = []
    for number in limited(range(len(images)), SAMPLED):
        with suppress(UserError):
            sizes.append(images.nbytes(number))
    return sum(sizes) // max(1, len(sizes))


def _cut(keys: Iterator[list[Key]], size: int, pieces: deque[int]) -> Iterator[list[Key]]:
    """Yield the keys of batches in pieces of at most `size`, and note how many each batch has."""
    for batch in keys:
        pieces.append(math.ceil(len(batch) / size))
        for start in range(0, len(batch), size):
            yield batch[start : start + size]
