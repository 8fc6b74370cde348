"""A report of what the device does, counted by line of the project."""

from __future__ import annotations

import functools
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

CHECKOUT = str(Path(__file__).parents[2])
OWN = str(Path(__file__).parent)

WAIT, TO_HOST, OVERLAPPED, TO_DEVICE, QUEUED, KERNEL = KINDS = (
    "wait",  # the host waits until all that was queued is done: item, bool, tolist, nonzero, boolean masks, ...
    "to host",  # the same, for a copy
    "overlapped",  # the host waits for an event alone, and later work stays queued
    "to device",  # the host waits until a copy to the device is done
    "queued",  # a copy, either way, that the host does not wait for
    "kernel",  # an operation that is started on the device
)


class Report:
    """Counts by kind, operation and line: counts[kind, operation, "densebench/training/loop.py:190"]."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()

    def note(self, kind: str, operation: str) -> None:
        """Count an operation at the line of the project that is running."""
        self.counts[kind, operation, line()] += 1

    def total(self, *kinds: str) -> int:
        """Return how often something of these kinds happened."""
        return sum(count for (kind, _, _), count in self.counts.items() if kind in kinds)

    @property
    def waits(self) -> int:
        """How often the host waited until the device had nothing left to do."""
        return self.total(WAIT, TO_HOST)

    def lines(self, *kinds: str) -> Counter[str]:
        """Return how often something of these kinds happened at each line."""
        found: Counter[str] = Counter()
        for (kind, _, where), count in self.counts.items():
            if kind in kinds:
                found[where] += count
        return found

    def table(self, *kinds: str, most: int = 40) -> str:
        """Return the counts as text, the largest first; by default of all kinds but kernels."""
        kinds = kinds or tuple(kind for kind in KINDS if kind != KERNEL)
        rows = [(count, *key) for key, count in self.counts.most_common() if key[0] in kinds]
        return "\n".join(f"{count:7}  {kind:10}  {what:24}  {where}" for count, kind, what, where in rows[:most])


def line() -> str:
    """Return the innermost line of the checkout that is running, outside the simulator; else of any code but torch's."""
    frame: FrameType | None = sys._getframe(1)
    other = ""
    while frame is not None:
        rank, name = _place(frame.f_code.co_filename)
        if rank == 0:
            return f"{name}:{frame.f_lineno}"
        if rank == 1 and not other:
            other = f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return other or "?"


@functools.cache
def _place(file: str) -> tuple[int, str]:
    """Return 0 for a file of the checkout, 1 for other code of users, 2 for libraries and the simulator; and its name."""
    if file.startswith(OWN) or "site-packages" in file or file.startswith(("<", sys.base_prefix)):
        return 2, ""
    if file.startswith(CHECKOUT):
        return 0, file.removeprefix(f"{CHECKOUT}/")
    return 1, "/".join(Path(file).parts[-2:])


class State(threading.local):
    """What is known of the call that an operation belongs to, in each thread."""

    makes_cuda = False
    """Whether a tensor that is made without a device, inside of a function of torch, belongs on the device."""
    checks = False
    """Whether values are read only because C++ takes the tensor for one of the CPU."""
    leaves = False
    """Whether a copy is one to the host: its device does not say so, as all tensors are the CPU's to C++."""

    @contextmanager
    def inside(self, makes_cuda: bool, checks: bool) -> Iterator[None]:
        """Note for the operations in the block what their function was called with."""
        before = self.makes_cuda, self.checks
        self.makes_cuda, self.checks = makes_cuda, checks
        try:
            yield
        finally:
            self.makes_cuda, self.checks = before

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Note for the copy in the block that it is one to the host."""
        self.leaves = True
        try:
            yield
        finally:
            self.leaves = False


class Current:
    """The report of the device that is simulated now, and the state of each thread."""

    def __init__(self) -> None:
        self.report, self.state = Report(), State()


current = Current()
