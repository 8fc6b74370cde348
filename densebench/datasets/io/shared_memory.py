"""The transport of decoded images from worker processes: through a bounded part of the shared memory, or through pipes.

Every tensor that a worker process sends lies in shared memory (/dev/shm) until it is freed. Containers often have 64 MB of it,
and a process that writes beyond its end is killed by a bus error, without a message.
"""

from __future__ import annotations

import functools
import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from densebench.console import warn
from densebench.errors import UserError

FOLDER = Path("/dev/shm")
MOST = 2 * 2**30
"""The most bytes of shared memory that the images of one loader take."""
WAITING = 2  # pieces of each worker that may be decoded and not received yet, if there is room
HELD = 4  # pieces that may be received and in use at the same time
MB = 10**6


@dataclass(frozen=True)
class Transport:
    """How many pieces (parts of batches) each worker decodes ahead, and whether they are sent through pipes."""

    ahead: int
    in_pipes: bool = False


def free_bytes() -> int | None:
    """Return the free bytes of shared memory; None where the system does not report them."""
    try:
        found = os.statvfs(FOLDER)
    except (OSError, AttributeError):
        return None
    return found.f_bavail * found.f_frsize


def room() -> int:
    """Return the bytes that the images of one loader may take: MOST, or half of the free shared memory if that is less."""
    free = free_bytes()
    return MOST if free is None else min(MOST, free // 2)


def piece_size(image_bytes: int, workers: int, most: int) -> int:
    """Return how many images of a size in bytes make a piece: at most `most`, so few that WAITING pieces of each worker fit."""
    return max(1, min(most, room() // max(1, image_bytes * (workers * WAITING + HELD))))


def transport(piece_bytes: int, workers: int, wanted: int = WAITING, held: int = 1) -> Transport:
    """Return the transport of pieces of a size in bytes: at most `wanted` ahead for each worker, as many as the memory holds.

    held: pieces that are received and still in use. Where the shared memory does not hold even one piece of each worker, they are
    sent through pipes, and a warning says so.
    """
    ahead = (room() // max(1, piece_bytes) - held) // workers
    if ahead >= 1:
        return Transport(min(wanted, ahead))
    if free_bytes() is None or room() == MOST:  # the images are huge, not the shared memory small
        return Transport(1)
    _warn_of_pipes(f"{FOLDER} has {(free_bytes() or 0) / MB:,.0f} MB free")
    return Transport(1, in_pipes=True)


@functools.cache
def _warn_of_pipes(what: str) -> None:
    warn(f"{what}, too little for what the processes decode: they send it through pipes, which is slower; give it some GB "
         "(docker run --shm-size=8g)")  # fmt: skip


class Piped:
    """A batch as bytes that are sent through a pipe.

    It is unpickled in the thread that copies it to page-locked memory, if any.
    """

    def __init__(self, batch: Any) -> None:
        self._content = pickle.dumps(batch, protocol=5)

    def batch(self) -> Any:
        """Return the batch that was sent."""
        return pickle.loads(self._content)

    def pin_memory(self) -> Any:
        """Return the batch in page-locked memory; a loader with `pin_memory=True` calls this."""
        return pin_memory(self.batch())


class Loader(DataLoader[Any]):
    """A DataLoader that unpacks batches sent through pipes, and raises UserError where a worker process was killed."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches. Raises UserError where the system has killed a worker."""
        try:
            for batch in super().__iter__():
                yield batch.batch() if isinstance(batch, Piped) else batch
        except RuntimeError as error:
            if not re.search("killed by signal|exited unexpectedly", str(error)):
                raise
            raise UserError(
                "a process that decodes images was killed, as the memory of the machine or its shared memory was full "
                f"({FOLDER}: {(free_bytes() or 0) / MB:,.0f} MB free now); give it more (docker run --shm-size=8g), or lower "
                "--workers"
            ) from error
