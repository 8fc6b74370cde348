"""What scoring a backbone costs: images a second, floating-point operations, memory and energy.

Code that extracts features or searches puts the work into a block of `measured`. A caller that wants the costs makes a `Meter`
and lets it run around that code (`Meter.running`). Outside of it nothing is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

MIB = 2**20
_running: ContextVar[Meter | None] = ContextVar("meter", default=None)


@dataclass
class Work:
    """One kind of work: the seconds that it took, the images that it was done on, and its floating-point operations."""

    seconds: float = 0.0
    images: int = 0
    flop: float = 0.0


@dataclass
class Meter:
    """Adds up the costs of the work that is done on a device while it runs: memory, energy, and time by kind of work."""

    device: torch.device
    work: dict[str, Work] = field(default_factory=dict)
    energy: float | None = None
    """Joules that the whole GPU has used meanwhile, other processes included; None on a CPU, and where NVML does not tell."""
    _seconds: float = 0.0
    _since: float | None = None
    _events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def __post_init__(self) -> None:
        _reset_peak_memory(self.device)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what the block does."""
        token, energy = _running.set(self), energy_used(self.device)
        self._since = time.perf_counter()
        try:
            yield
        finally:
            _running.reset(token)
            self._seconds, self._since = self.clock(), None
            now = energy_used(self.device)
            if energy is not None and now is not None:
                self.energy = (self.energy or 0.0) + now - energy

    def clock(self) -> float:
        """Return the seconds that the meter has run so far, blocks that have not ended included."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def timed(self, what: str, device: torch.device) -> Iterator[Work]:
        """Add the time of the block to a kind of work, and yield that work.

        On a GPU it is the time between two events of the current stream; the host does not wait for them here.
        """
        work = self.work.setdefault(what, Work())
        if device.type != "cuda":
            began = time.perf_counter()
            yield work
            work.seconds += time.perf_counter() - began
            return
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        yield work
        last.record()
        self._events.append((what, first, last))

    def figures(self) -> dict[str, Any]:
        """Return what was measured, as records hold it (`record_schema.Run`); None stands for what is not known.

        Memory is in MiB, energy in joules. On a GPU the host waits for the end of the work.
        """
        for what, first, last in self._events:
            last.synchronize()
            self.work[what].seconds += first.elapsed_time(last) / 1000
        self._events.clear()
        timed = {what: work for what, work in self.work.items() if work.seconds > 0}
        return {
            "images_per_second": {what: round(work.images / work.seconds, 2) for what, work in timed.items() if work.images},
            "tflop_per_second": {what: round(work.flop / work.seconds / 1e12, 4) for what, work in timed.items() if work.flop},
            "host_memory_mb": peak_host_memory(),
            "device_memory_mb": peak_device_memory(self.device),
            "energy_joules": None if self.energy is None else round(self.energy, 1),
        }


@contextmanager
def measured(what: str, device: torch.device, *, images: int = 0, flop: float = 0.0) -> Iterator[None]:
    """Add the block to the costs of the meter that runs; where none does, measure nothing.

    what: the kind of work, "features" or "search". images, flop: how many images and floating-point operations the block works
    through. device: where; the CPU for a block that waits for the end of its own work, whatever computes it.
    """
    meter = _running.get()
    if meter is None:
        yield
        return
    with meter.timed(what, device) as work:
        yield
    work.images += images
    work.flop += flop


def _reset_peak_memory(device: torch.device) -> None:
    """Set the peaks of memory to what is used now, where the system allows it: one process may score many backbones."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_host_memory() -> int | None:
    """Return the peak of this process's own memory in MiB, without the processes that decode images; None if not known."""
    try:
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (MIB if sys.platform == "darwin" else 1024))  # macOS counts bytes, others KiB


def peak_device_memory(device: torch.device) -> int | None:
    """Return the peak of what torch allocated on a GPU, in MiB; None for the CPU."""
    return round(torch.cuda.max_memory_allocated(device) / MIB) if device.type == "cuda" else None


def energy_used(device: torch.device) -> float | None:
    """Return the joules that a GPU has used since its driver was loaded; None for the CPU, and where NVML does not tell."""
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except Exception:  # an optional package, whose errors depend on the driver; a figure is missing then, and nothing else
        return None
