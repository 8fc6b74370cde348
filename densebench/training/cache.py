"""Decoded images cached in the machine's memory or the GPU's: `--cache ram` and `--cache gpu`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densebench.console import Progress, progress
from densebench.datasets.images import Images
from densebench.datasets.io import shared_memory
from densebench.errors import UserError
from densebench.numerics.crops import Pictures
from densebench.training.batches import Batch

RUN = 64  # consecutive images that a thread decodes
MOST_THREADS = 16


class Cache(Images):
    """All images of a data set, decoded once into one buffer of bytes, with a short side of at most `side` px.

    Larger images are resized to that side, so crops of a small part of them lose some detail. The size of the buffer follows from
    the headers of the files; then threads decode every image straight into it, so memory holds the pixels only once. Data sets
    that are read by the user's own code are read by one thread.

    shared: whether worker processes will read it, so that it lies in shared memory. Raises UserError where that is too small.
    """

    def __init__(self, images: Images, side: int, shared: bool = True) -> None:
        self.name, self.images = images.name, images
        threads = 1 if images.code else min(MOST_THREADS, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool, progress("decoding into memory", len(images)) as bar:
            shapes = [shape for run in pool.map(lambda run: _shapes(images, run, side), _runs(len(images))) for shape in run]
            room = _Room(shapes, shared)
            for _ in pool.map(lambda run: room.fill(images, run, side, bar), _runs(len(images))):
                pass
        self.bytes, self.shapes, self.starts = room.packed()

    def __len__(self) -> int:
        return len(self.images)

    def title(self, index: int) -> str:
        """Return the title that the image has in the set."""
        return self.images.title(index)

    def open(self, index: int) -> Image.Image:
        """Return the cached image."""
        return Image.fromarray(self.pixels(index))

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of the cached image."""
        return self.shapes[index][::-1]

    def pixels(self, index: int) -> np.ndarray:
        """Return the cached bytes, uint8 [h, w, 3], from whichever device they are on."""
        return self.tensor(index).cpu().numpy()

    def tensor(self, index: int) -> Tensor:
        """Return the cached bytes on their device, uint8 [h, w, 3]. Raises UserError for a file that could not be decoded."""
        height, width = self.shapes[index]
        if not height:
            raise UserError(f"the image {self.title(index)} cannot be decoded; fetch it again")
        return self.bytes[self.starts[index] : self.starts[index + 1]].view(height, width, 3)

    def on(self, device: torch.device) -> tuple[Images, Cache]:
        """Move the bytes to a device; return the images' shapes, from which views are drawn, and this cache."""
        self.bytes = self.bytes.to(device)
        return Shapes(self), self

    def fill(self, batch: Batch) -> Batch:
        """Return a batch that was drawn from `Shapes`, with views of the cached bytes as its pixels; no byte is copied."""
        numbers, (top, left) = batch.numbers.numpy(), batch.offsets.numpy().astype(np.int64).T
        row = 3 * np.array(self.shapes, np.int64).reshape(-1, 2)[numbers, 1]
        ones = np.ones_like(row)
        layout = np.stack([self.starts[numbers] + row * top + 3 * left, ones, row, 3 * ones], axis=1)
        return replace(batch, pixels=Pictures((self.bytes,), torch.from_numpy(layout)))


class Shapes(Images):
    """The shapes of images whose pixels are on another device: enough to draw views."""

    def __init__(self, cache: Cache) -> None:
        self.name, self.shapes = cache.name, cache.shapes
        self.titles = [cache.title(number) for number in range(len(cache))]

    def __len__(self) -> int:
        return len(self.shapes)

    def title(self, index: int) -> str:
        """Return the title that the image has in the set."""
        return self.titles[index]

    def open(self, index: int) -> Image.Image:
        """Raise NotImplementedError: the pixels are elsewhere."""
        raise NotImplementedError

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of the cached image."""
        return self.shapes[index][::-1]

    def nbytes(self, index: int) -> int:
        """Return 0: `pixels` returns none."""
        return 0

    def pixels(self, index: int) -> np.ndarray:
        """Return an array without channels, uint8 [h, w, 0]. Raises UserError for a file that could not be decoded."""
        height, width = self.shapes[index]
        if not height:
            raise UserError(f"the image {self.title(index)} cannot be decoded; fetch it again")
        return np.zeros((height, width, 0), np.uint8)


class _Room:
    """One buffer with a range of bytes for each image, which threads fill."""

    def __init__(self, shapes: list[tuple[int, int]], shared: bool) -> None:
        self.shapes = shapes
        self.starts = _starts(shapes)
        self.bytes = _buffer(int(self.starts[-1]), shared)
        self._shared = shared
        self._larger: dict[int, np.ndarray] = {}
        """Images that are larger than their headers say."""

    def fill(self, images: Images, run: range, side: int, bar: Progress) -> None:
        """Decode some images into the buffer."""
        for number in run:
            pixels = _decoded(images, number, side)
            part = self.bytes[self.starts[number] : self.starts[number + 1]].numpy()
            self.shapes[number] = (pixels.shape[0], pixels.shape[1])
            if pixels.size <= part.size:
                part[: pixels.size] = pixels.reshape(-1)
            else:
                self._larger[number] = pixels.copy()
            bar.advance()

    def packed(self) -> tuple[Tensor, list[tuple[int, int]], np.ndarray]:
        """Return the bytes without gaps, the shapes of the images, and where each begins.

        A file with a header that cannot be decoded leaves a gap. Gaps are closed within the buffer; a second buffer is made only
        where an image is larger than its header says.
        """
        starts = _starts(self.shapes)
        if np.array_equal(starts, self.starts):
            return self.bytes, self.shapes, starts
        target = _buffer(int(starts[-1]), self._shared) if self._larger else self.bytes
        into, source = target.numpy(), self.bytes.numpy()
        for number, (begin, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
            old = int(self.starts[number])
            larger = self._larger.get(number)
            if larger is not None:
                into[begin:end] = larger.reshape(-1)
            elif target is not self.bytes or old != begin:
                into[begin:end] = source[old : old + end - begin]  # numpy copies overlapping ranges correctly
        return target[: int(starts[-1])], self.shapes, starts


def _starts(shapes: list[tuple[int, int]]) -> np.ndarray:
    """Return where each image begins in the buffer, and after the last one where it ends."""
    return np.cumsum([0, *(3 * height * width for height, width in shapes)])


def _buffer(size: int, shared: bool) -> Tensor:
    """Return an uninitialised uint8 [size], which takes no memory until it is written to. Raises UserError as `Cache` does."""
    if not shared:
        return torch.empty(size, dtype=torch.uint8)
    free = shared_memory.free_bytes()
    if free is not None and size > free:
        raise UserError(
            f"--cache ram: the decoded images take {size / 1e9:.1f} GB of shared memory, {shared_memory.FOLDER} has "
            f"{free / 1e9:.1f} GB free; give it more (docker run --shm-size={size // 10**9 + 4}g), lower --cache-side, or set "
            "--workers 0, which needs none"
        )
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))  # type: ignore[call-overload]


def _runs(count: int) -> Iterator[range]:
    return (range(start, min(count, start + RUN)) for start in range(0, count, RUN))


def _shapes(images: Images, run: range, side: int) -> list[tuple[int, int]]:
    """Return the heights and widths that images will have in the cache, from their headers; 0 for a broken file."""
    return [_reduced(_size(images, number), side)[::-1] for number in run]


def _size(images: Images, number: int) -> tuple[int, int]:
    try:
        return images.size(number)
    except UserError:
        return 0, 0


def _reduced(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the width and height in the cache of an image of some width and height."""
    if min(size) <= side:
        return size
    factor = side / min(size)
    return round(size[0] * factor), round(size[1] * factor)


def _decoded(images: Images, number: int, side: int) -> np.ndarray:
    """Return an image as it is cached, uint8 [h, w, 3]; [0, 0, 3] where it cannot be decoded."""
    try:
        image, full = images.reduced(number, side)
    except UserError:
        return np.zeros((0, 0, 3), np.uint8)
    size = _reduced(full, side)
    if size == full:
        return np.asarray(image)
    scale = round(max(full) / max(image.size))
    box = (0, 0, full[0] / scale, full[1] / scale)  # the last row and column of a reduced image may cover less than a pixel of it
    return np.asarray(image.resize(size, box=box, reducing_gap=2.0))
