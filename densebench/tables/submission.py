"""The jobs of a table on this machine, by submitit's local executor: so many cells at once, each in a process of its own.

There is no queue of our own: what can be started follows from the states of the cells, that is, from files. So several runs of
one table, on one machine or on several that share a folder, share the work, and a run that is killed leaves nothing to clean up.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from densebench.errors import UserError
from densebench.files.locks import lock_exclusively, lock_shared
from densebench.tables.carrying_out import Job
from densebench.tables.cells import Cell
from densebench.tables.states import State, TableFolder, states

YEARS = 10 * 365 * 24 * 60  # minutes: no job on this machine times out
IN_USE = "in-use.lock"
"""A file in the folder of the jobs of a run on this machine, locked as long as that run lives."""
LOOKS = 0.2  # seconds between two looks at the jobs and the files
Report = Callable[[Sequence[State]], None]
"""Is called with the states of all cells at every look."""


@dataclass
class Slots:
    """How many processes may work at once, and their GPUs, one each; without GPUs, jobs see what this process sees."""

    count: int = 1
    gpus: Sequence[str] = ()

    @classmethod
    def of_gpus(cls, count: int) -> Slots:
        """Return slots for so many GPUs of this machine. Raises UserError where it has fewer."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            names = [name for name in visible.split(",") if name]
        else:
            import torch

            names = [str(number) for number in range(torch.cuda.device_count())]
        if count > len(names):
            remedy = f"give --gpus {len(names)}" if names else "give --processes N, which works on the CPU"
            raise UserError(f"--gpus {count}: there {'is 1 GPU' if len(names) == 1 else f'are {len(names)} GPUs'} here; {remedy}")
        return cls(count, tuple(names[:count]))

    def needed(self, cell: Cell) -> int:
        """Return how many slots a cell takes: one for each of its processes, on CPUs no more than there are.

        Raises UserError where it needs more GPUs than there are slots.
        """
        if self.gpus and cell.processes > self.count:
            raise UserError(f"{cell.label} takes {cell.processes} processes; give --gpus {cell.processes} or more")
        return min(cell.processes, self.count)


@dataclass
class _Started:
    """A cell whose job was started here, and the GPUs that it has."""

    cell: Cell
    job: Any
    gpus: Sequence[str]
    slots: int


@dataclass
class LocalRun:
    """Carries out cells of a table on this machine, some at once, until none is ready any more.

    cells: all cells of the table. only: the ids of those to carry out; None: all.
    """

    cells: Sequence[Cell]
    folder: TableFolder
    slots: Slots
    report: Report = lambda states: None
    rehearsal: bool = False
    only: Collection[str] | None = None
    _started: list[_Started] = field(default_factory=list)
    _tried: set[str] = field(default_factory=set)
    _before: dict[str, Any] = field(default_factory=dict)

    def run(self) -> list[State]:
        """Carry out what is missing and return the states at the end.

        A cell that fails or whose process dies is not tried again in this run. Cells that another run works on are waited for.
        KeyboardInterrupt is raised once all jobs have saved what they had and have ended.
        """
        for cell in self._own(self.cells):
            self.slots.needed(cell)
        self._before = {cell.id: self.folder.noted(cell) for cell in self.cells}
        place = jobs_folder(self.folder)
        with _in_use(place):
            try:
                return self._run(_executor(place))
            except BaseException:
                self._stop()
                raise
            finally:
                _sweep(self.folder.jobs)

    def _run(self, executor: Any) -> list[State]:
        while True:
            found = self._look()
            running = self._own(state.cell for state in found if state.word == "running")
            if not self._started and not running and not self._ready(found):
                return states(self.cells, self.folder)
            self._start(executor, found)
            time.sleep(LOOKS)

    def _own(self, cells: Iterable[Cell]) -> list[Cell]:
        return [cell for cell in cells if self.only is None or cell.id in self.only]

    def _look(self) -> list[State]:
        """Take note of jobs that have ended; return the states of all cells and report them."""
        for started in [started for started in self._started if started.job.done()]:
            self._started.remove(started)
            _forget(started.job)
            if self.folder.noted(started.cell) != self._before[started.cell.id] or not self.folder.is_held(started.cell):
                self._tried.add(started.cell.id)  # else another run has it
        others = {cell.id for cell in self.cells if self._has_failed_since(cell)}
        found = states(self.cells, self.folder, self._tried | others)
        self.report(found)
        return found

    def _has_failed_since(self, cell: Cell) -> bool:
        """Return whether a run has noted a failure of a cell since this run began."""
        note = self.folder.noted(cell)
        return note.get("state") == "failed" and note != self._before[cell.id]

    def _ready(self, found: Sequence[State]) -> list[Cell]:
        """Return the cells that can be started; those that share features with one that runs come last."""
        at_work = {started.cell.id for started in self._started}
        done = {state.cell.id for state in found if state.word == "done"}
        busy = {_features(state.cell) for state in found if state.word == "running" or state.cell.id in at_work}
        waiting = [state.cell for state in found if state.word == "waiting" and state.cell.id not in at_work | self._tried]
        going = {state.cell.id for state in found if state.word == "running"} | at_work
        going |= {cell.id for cell in self._own(state.cell for state in found if state.word == "waiting")} - self._tried
        ready = [cell for cell in self._own(waiting) if done.issuperset(cell.needs) and going.isdisjoint(cell.wants)]
        return sorted(ready, key=lambda cell: _features(cell) in busy)

    def _start(self, executor: Any, found: Sequence[State]) -> None:
        """Start as many cells as there is room for, in order: a cell of several processes waits for room, and the rest for it."""
        while ready := self._ready(found):
            cell = ready[0]
            needed = self.slots.needed(cell)
            if needed > self.slots.count - sum(started.slots for started in self._started):
                return
            taken = {gpu for started in self._started for gpu in started.gpus}
            gpus = [gpu for gpu in self.slots.gpus if gpu not in taken][:needed]
            devices = ",".join(gpus) if gpus else os.environ.get("CUDA_VISIBLE_DEVICES")
            threads = 0 if self.slots.count == 1 or gpus else max(1, _cores() // self.slots.count)
            with _without_interrupts():
                job = executor.submit(Job(cell, self.folder, devices, threads, self.rehearsal))
            self._started.append(_Started(cell, job, gpus, needed))

    def _stop(self) -> None:
        """Ask every job to save what it has, and wait until all have ended."""
        for started in self._started:
            with suppress(ProcessLookupError):
                os.kill(int(started.job.job_id), signal.SIGTERM)  # submitit's controller passes it on
        for started in self._started:
            while not started.job.done():
                time.sleep(0.05)
            _forget(started.job)
        self._started.clear()


def _features(cell: Cell) -> tuple[str, str]:
    """Return what cells that share features have in common."""
    return (cell.backbone, cell.dataset) if cell.kind == "evaluation" else (cell.id, "")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _executor(place: Path) -> Any:
    """Return submitit's executor for this machine. Each run has a folder of jobs of its own: ids of processes come again."""
    from submitit import LocalExecutor

    executor = LocalExecutor(place)
    executor.update_parameters(timeout_min=YEARS)
    return executor


def jobs_folder(folder: TableFolder) -> Path:
    """Return a new folder for the jobs of one run. Raises UserError where it cannot be made."""
    path = folder.jobs / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write in {folder.path}: {error.strerror}; choose another --results") from error
    return path.absolute()


def _forget(job: Any) -> None:
    """Remove the pickles of a job that has ended; nobody reads them again. Its logs stay."""
    for path in (job.paths.submitted_pickle, job.paths.result_pickle):
        with suppress(OSError):
            path.unlink()


@contextmanager
def _in_use(place: Path) -> Iterator[None]:
    """Say during the block that a run on this machine uses its folder of jobs; the system takes that back when it dies."""
    handle = os.open(place / IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        lock_shared(handle)
        yield
    finally:
        os.close(handle)


def _sweep(jobs: Path) -> None:
    """Remove the pickles that killed runs left. Folders of jobs on a cluster, which may begin later, say nothing of their use."""
    for path in jobs.glob(f"*/{IN_USE}"):
        with suppress(OSError), lock_exclusively(path) as is_free:
            for pickle in path.parent.glob("*.pkl") if is_free else ():
                pickle.unlink()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back during the block. A process that is started in it holds it back until it asks for it, see `Job`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
