"""Batches of images through a network and their features to a store: on a GPU copies, computation and writing overlap.

While the GPU computes one batch, the next one is copied to it and the features of the one before are copied back, each on a CUDA
stream of its own, and threads write shards. The host waits only for the copy of the features of the batch before.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from densebench.console import warn
from densebench.errors import UserError
from densebench.numerics.device_memory import free_bytes
from densebench.numerics.host_copy import HostCopy

BATCH = 16
"""Images in a forward pass on the CPU; for a GPU, the most images that a worker process sends at once."""
TOKENS = 2**17
"""Patches in a forward pass that fill a GPU: 128 images of 512 px in patches of 16."""
PIXEL_BYTES = 1024
"""Bytes of GPU memory that one pixel takes in a forward pass: more than a convolutional network needs, far more than a ViT."""
MOST = 512
"""The most images in a forward pass whose size is chosen for a GPU."""
WRITERS = 4
"""Threads that write the features of a GPU; each writes about 1 GB/s, and spends half of the time on the checksum."""

Piece = tuple[list[str], Tensor]
"""The names of some images of one size, and their views `[b 3 h w]`."""
Compute = Callable[[list[str], Tensor], Tensor]
"""Returns the features to store of some images of one size, on the device."""


def images_at_once(given: int | None, device: torch.device, shape: tuple[int, int], stride: int) -> int:
    """Return how many images of a shape (height, width) go through a network together.

    `given` where it is not None; else BATCH on the CPU, and on a GPU as many as fill it, but no more than half of its free memory
    holds.
    """
    if given is not None:
        return given
    if device.type != "cuda":
        return BATCH
    height, width = shape
    patches = max(1, (height // stride) * (width // stride))
    return max(1, min(MOST, TOKENS // patches, free_bytes(device) // 2 // (height * width * PIXEL_BYTES)))


def gathered(pieces: Iterable[Piece], most: Callable[[tuple[int, int]], int]) -> Iterator[list[Piece]]:
    """Yield consecutive pieces of one image size as batches of at most `most(shape)` images, or of one larger piece."""
    batch: list[Piece] = []
    count = 0
    for names, images in pieces:
        if batch and (batch[0][1].shape[1:] != images.shape[1:] or count + len(names) > most((images.shape[2], images.shape[3]))):
            yield batch
            batch, count = [], 0
        batch.append((names, images))
        count += len(names)
        if count >= most((images.shape[2], images.shape[3])):
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def computed(batches: Iterable[list[Piece]], compute: Compute, device: torch.device) -> Iterator[tuple[list[str], Tensor]]:
    """Yield the names of images and what `compute` returns for them, on the CPU, in order; on a GPU one batch late.

    A batch that does not fit the memory of the GPU is halved, and the next ones too. Raises UserError where one image does not
    fit.
    """
    halving = _Halving(compute)
    if device.type == "cuda":
        yield from _overlapped(batches, halving, device)
        return
    for pieces in batches:
        images = pieces[0][1] if len(pieces) == 1 else torch.cat([images for _, images in pieces])
        yield from halving.parts(_names(pieces), images)


def _overlapped(batches: Iterable[list[Piece]], halving: _Halving, device: torch.device) -> Iterator[tuple[list[str], Tensor]]:
    """Yield the same as `computed`, for a GPU: copies in both directions overlap with the forward pass."""
    incoming, outgoing, here = torch.cuda.Stream(device), torch.cuda.Stream(device), torch.cuda.current_stream(device)
    begun: deque[list[tuple[list[str], HostCopy]]] = deque()
    for pieces in batches:
        with torch.cuda.stream(incoming):
            moved = [images.to(device, non_blocking=True) for _, images in pieces]
            images = moved[0] if len(moved) == 1 else torch.cat(moved)
            here.wait_event(incoming.record_event())
        images.record_stream(here)  # so that its memory is not reused before the forward pass is done
        copies = []
        for names, result in halving.parts(_names(pieces), images):
            outgoing.wait_event(here.record_event())
            with torch.cuda.stream(outgoing):
                copies.append((names, HostCopy(result)))
            result.record_stream(outgoing)
        del moved, images
        begun.append(copies)
        if len(begun) > 1:
            yield from ((names, copy.value()) for names, copy in begun.popleft())
    for copies in begun:
        yield from ((names, copy.value()) for names, copy in copies)


def _names(pieces: list[Piece]) -> list[str]:
    return [name for names, _ in pieces for name in names]


class _Halving:
    """Computes batches: in parts, where a whole batch does not fit the memory of the GPU."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._most: int | None = None

    def parts(self, names: list[str], images: Tensor) -> Iterator[tuple[list[str], Tensor]]:
        """Yield the names of the images and what `compute` returns for them, in parts that fit the memory."""
        start = 0
        while start < len(names):
            end = min(len(names), start + (self._most or len(names)))
            result = self._try(names[start:end], images[start:end])
            if result is None:
                self._halve(end - start, images)
                continue
            yield names[start:end], result
            start = end

    def _try(self, names: list[str], images: Tensor) -> Tensor | None:
        try:
            return self._compute(names, images)
        except torch.cuda.OutOfMemoryError:  # the traceback refers to the memory that must be freed: nothing else may happen here
            return None

    def _halve(self, count: int, images: Tensor) -> None:
        if count == 1:
            height, width = images.shape[2:]
            raise UserError(
                f"the memory of the GPU does not hold one image of {height} x {width} px; give a smaller --image-size"
            )
        self._most = count // 2
        torch.cuda.empty_cache()
        warn(f"{count} images do not fit the memory of the GPU: {self._most} go through the network together")


class Writer:
    """Calls `write` in threads while the caller goes on; with 0 threads, in `put` itself. It is a context manager.

    At most one call for each thread is under way. When the block ends, even by an error, all that was given to `put` is written.
    Errors of `write` are raised by the next `put`, or at the end of the block.
    """

    def __init__(self, write: Callable[[dict[str, Tensor]], None], threads: int) -> None:
        self._write, self._threads = write, threads
        self._begun: deque[Future[Any]] = deque()
        self._pool = ThreadPoolExecutor(threads, "densebench-writer") if threads else None

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Begin to write tensors; where all threads are busy, wait for the oldest call."""
        if self._pool is None:
            self._write(tensors)
            return
        while len(self._begun) >= self._threads or (self._begun and self._begun[0].done()):
            self._begun.popleft().result()
        self._begun.append(self._pool.submit(contextvars.copy_context().run, self._write, tensors))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        if kind is None:
            for future in self._begun:
                future.result()
