"""One cell of a table, carried out in a process of its own: a pretraining, an evaluation of one backbone, or a figure.

The process holds the cell's lock, notes what it does (see `states`), and trains or scores as `densebench pretrain` and
`densebench eval` do. Stopped by Ctrl-C, SIGTERM or a time-out, it saves what there is. Killed at any moment, it leaves what
those commands leave, and the next process resumes from there.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densebench.console import silenced
from densebench.errors import Stopped, UserError
from densebench.files.atomic import canonical_json
from densebench.results import record as records
from densebench.results.provenance import REHEARSAL
from densebench.tables.cells import Cell
from densebench.tables.states import TableFolder, backbone_files, is_done

PLACEHOLDER = "pixels:8"
"""A backbone that needs no file: the group of a record does not depend on the backbone."""
STOPPING = ("SIGINT", "SIGTERM")
LINE = re.compile(r"^densebench: (?P<problem>.+)$", re.MULTILINE)


@dataclass
class Job:
    """What submitit runs in a process of its own: one cell.

    devices: what CUDA_VISIBLE_DEVICES should say, None: nothing. threads: of the CPU, 0: as the environment says.
    """

    cell: Cell
    folder: TableFolder
    devices: str | None = None
    threads: int = 0
    rehearsal: bool = False

    def __call__(self) -> None:
        """Carry the cell out; under submitit in a process group of its own, so that Ctrl-C reaches only its starter."""
        log = _log_of_job()
        if log is not None:
            os.setpgid(0, 0)
        environment = {"CUDA_VISIBLE_DEVICES": self.devices, REHEARSAL: "1" if self.rehearsal else None}
        if self.threads:
            environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(self.threads)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        carry_out(self.cell, self.folder, log=log)


def _log_of_job() -> Path | None:
    """Return the file that the standard error of this process goes to, where submitit started it."""
    if "SUBMITIT_FOLDER" not in os.environ:
        return None
    from submitit import JobEnvironment

    return JobEnvironment().paths.stderr


@dataclass
class _Work:
    """One cell at work: its note, which grows."""

    cell: Cell
    folder: TableFolder
    log: Path | None
    note: dict[str, Any] = field(default_factory=dict)

    def write(self, **facts: Any) -> None:
        self.note.update(facts)
        self.folder.note(self.cell, self.note)


def carry_out(cell: Cell, folder: TableFolder, log: Path | None = None) -> None:
    """Carry out a cell, unless it is done or another process works on it, and note how it ended.

    log: the file that the standard error of this process goes to. Errors of the cell are noted, not raised; only
    KeyboardInterrupt is raised, where the cell was stopped.
    """
    with folder.holding(cell) as is_mine:
        before = folder.noted(cell)
        if not is_mine or is_done(cell, before, folder):
            return
        died = before.get("died", 0) + (before.get("state") == "running")
        work = _Work(cell, folder, log)
        began = time.monotonic()
        work.write(state="running", started=_now(), host=platform.node(), pid=os.getpid(), **_about_job(log), died=died)
        with _stoppable() as stopped:
            try:
                facts = WORK[cell.kind](work)
            except BaseException as error:
                work.note |= {"ended": _now(), "seconds": round(time.monotonic() - began, 3)}
                if stopped or isinstance(error, KeyboardInterrupt | Stopped):
                    work.write(state="interrupted")
                    raise KeyboardInterrupt from error
                work.write(state="failed", **_failure(cell, error))
                return
        work.write(state="done", ended=_now(), seconds=round(time.monotonic() - began, 3), files=backbone_files(cell), **facts)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _about_job(log: Path | None) -> dict[str, Any]:
    return {"log": str(log), "job": log.name.split("_0_log")[0]} if log is not None else {}


@contextmanager
def _stoppable() -> Iterator[list[int]]:
    """Turn the first SIGINT or SIGTERM into a KeyboardInterrupt, and yield those that came; a second one ends at once.

    A signal that was blocked while the process started arrives now.
    """
    came: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        if came:
            os._exit(130)
        came.append(number)
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in STOPPING]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failure(cell: Cell, error: BaseException) -> dict[str, Any]:
    """Return what a note says of an error, after printing its traceback to the log if it is no mistake of the user's."""
    from densebench.results.result import Failure

    if isinstance(error, _Ended):
        return {"problem": str(error), "users": error.status == 2}
    failure = Failure(cell.backbone, cell.dataset, cell.protocol, error)
    if not failure.is_users:
        traceback.print_exception(error)
    print(f"densebench: {failure.problem}", file=sys.stderr, flush=True)
    return {"problem": failure.problem, "users": failure.is_users}


def _evaluate(work: _Work) -> dict[str, Any]:
    """Score the cell's backbone, and return what a note says of the record."""
    from densebench.evaluation.plan import planned
    from densebench.evaluation.run import Scored, steps
    from densebench.evaluation.undisturbed import plain, random_states
    from densebench.user_code import guarded

    positional, keywords = work.cell.arguments()
    with random_states(), plain(), guarded():
        plan = planned(*positional, **keywords, command=_command(work.cell))
        [opened] = plan.datasets
        points = plan.evaluator.resolve(opened).points(opened)
        work.write(scored=0, total=len(points))
        _in_processes(work, [])
        scored, record = set[Any](), {}
        for step in steps([plan], keep_going=False):
            if isinstance(step, Scored):
                scored.add(frozenset(step.score.axes.items()))
                if len(scored) != work.note["scored"]:
                    work.write(scored=len(scored))
            elif isinstance(step, dict):
                record = step
    return {"record": record["id"], "points": [dict(point) for point in points]}


def forget_outdated(cells: Sequence[Cell], folder: TableFolder) -> list[Cell]:
    """Forget the notes of evaluations whose data set, protocol or code has changed since they were done; return these cells.

    No backbone is loaded. An evaluation whose data are not here keeps its note.
    """
    from densebench.evaluation.cell import group_of
    from densebench.evaluation.plan import planned

    known: dict[str, str | None] = {}
    outdated = []
    for cell in cells:
        note = folder.noted(cell)
        if cell.kind != "evaluation" or not is_done(cell, note, folder):
            continue
        _, keywords = cell.arguments()
        key = canonical_json([{**keywords, "name": None, "weights": None}])
        if key not in known:
            known[key] = None
            with silenced(), suppress(UserError):
                plan = planned(PLACEHOLDER, **{**keywords, "name": None, "weights": None})
                known[key] = group_of(plan, plan.datasets[0])
        record = records.read(folder.results / "records" / f"{note['record']}.json")
        if known[key] not in (None, record["group"]):
            folder.forget(cell)
            outdated.append(cell)
    return outdated


def _pretrain(work: _Work) -> dict[str, Any]:
    """Train, or resume a training that is unfinished; return nothing to note but what all cells note."""
    from densebench.training.request import Launch
    from densebench.training.run import train
    from densebench.user_code import guarded

    positional, keywords = work.cell.arguments()
    resume = (Path(keywords["output"]) / "run.json").is_file()
    with guarded():
        if work.cell.processes > 1:
            _in_processes(work, ["--resume"] if resume else [])
        else:
            train(*positional, **keywords, resume=resume, launch=Launch(command=_command(work.cell)))
    return {}


def _draw(work: _Work) -> dict[str, Any]:
    """Draw a figure, and return what a note says of its sheet."""
    from densebench.evaluation.undisturbed import plain, random_states
    from densebench.tables.figures import draw_figure
    from densebench.user_code import guarded

    with random_states(), plain(), guarded():
        return draw_figure(work.cell, work.folder)


WORK: dict[str, Callable[[_Work], dict[str, Any]]] = {"evaluation": _evaluate, "pretrain": _pretrain, "figure": _draw}
"""What carries out each kind of cell; it returns what the note of a cell that is done says besides."""


def _command(cell: Cell) -> str:
    return shlex.join(["densebench", *_words(cell)])


def _words(cell: Cell) -> list[str]:
    return [*cell.command[cell.command[:1] == ("densebench",) :]]


class _Ended(Exception):  # noqa: N818
    """Processes that worked together on a cell ended with this status, and said why in this line."""

    def __init__(self, problem: str, status: int) -> None:
        super().__init__(problem)
        self.status = status


def _in_processes(work: _Work, more: list[str]) -> None:
    """Run the cell's command in as many processes as the cell says; nothing where that is one."""
    count = work.cell.processes
    if count == 1:
        return
    from densebench.launching import launch

    printed = work.log.stat().st_size if work.log is not None and work.log.is_file() else 0
    handlers = {number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, STOPPING)}
    try:
        status = launch(count, [*_words(work.cell), *more])
    finally:
        for number, handler in handlers.items():  # the launcher sets its own
            signal.signal(number, handler)
    if status in (130, 143):
        raise KeyboardInterrupt
    if status:
        raise _Ended(_last_line(work.log, printed) or f"its {count} processes ended with status {status}", status)


def _last_line(log: Path | None, after: int) -> str:
    """Return the last message that a log holds after so many bytes; "" where there is none."""
    if log is None or not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(after)
        lines = LINE.findall(stream.read().decode(errors="replace"))
    return lines[-1] if lines else ""
