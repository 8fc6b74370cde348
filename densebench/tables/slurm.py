"""The jobs of a table on a SLURM cluster, by submitit: arrays of jobs, each of which carries out its share of the cells.

Cells that share features (of one backbone on one data set) are one job's, one after another, so that the extraction is done once.
Cells that need others are an array of their own, which begins when those have ended. A job that reaches its time limit stops its
cells, which save what they have, and is queued again; they resume from there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densebench.errors import UserError, unknown
from densebench.tables.cells import Cell
from densebench.tables.states import TableFolder, is_done
from densebench.tables.submission import LocalRun, Slots, jobs_folder

TIMEOUTS = 1000  # times that a job may reach its time limit
DELAY = 120  # seconds before the time limit at which a job is told
MINUTES = re.compile(r"(?:(?P<d>\d+)-)?(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d)")
BETWEEN = re.compile(r",(?=\s*[\w-]+\s*=)")


def _whole(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise ValueError("a whole number from 1 on")
    return int(text)


def _minutes(text: str) -> int:
    """Return minutes of "90", "1:30:00" or "2-00:00:00"; seconds are rounded up."""
    if match := MINUTES.fullmatch(text):
        days, hours, minutes, seconds = (int(match[name] or 0) for name in "dhms")
        text = str((days * 24 + hours) * 60 + minutes + (seconds > 0))
    try:
        return _whole(text)
    except ValueError as error:
        raise ValueError("minutes, HH:MM:SS or D-HH:MM:SS") from error


def _text(text: str) -> str:
    if not text or any(character in text for character in "\n\r\0"):
        raise ValueError("a text")
    return text


KEYS: Mapping[str, Callable[[str], Any]] = {
    "partition": _text, "time": _minutes, "gpus_per_node": _whole, "cpus_per_task": _whole, "mem": _text, "account": _text,
    "qos": _text, "constraint": _text, "gres": _text, "exclude": _text, "nodelist": _text, "comment": _text, "mail_user": _text,
    "mail_type": _text, "array_parallelism": _whole, "signal_delay_s": _whole,
}  # fmt: skip
"""What --slurm takes, in sbatch's words; two are submitit's: array_parallelism (jobs of an array at once) and signal_delay_s."""


def read_parameters(text: str) -> dict[str, Any]:
    """Return the parameters of submitit that a text such as "partition=gpu,gpus_per_node=8,time=12:00:00" stands for.

    Raises UserError for an unknown key, a value that the key does not take, a key that is given twice, and where no time is
    given, since SLURM would then end the jobs after a few minutes.
    """
    values: dict[str, Any] = {}
    for part in BETWEEN.split(text):
        key, equals, value = (word.strip() for word in part.partition("="))
        key = key.replace("-", "_")
        if key not in KEYS:
            raise unknown("key in --slurm", key, KEYS, f"it takes {', '.join(KEYS)}")
        if key in values:
            raise UserError(f"--slurm gives {key} twice; leave one out")
        try:
            values[key] = KEYS[key](value)
        except ValueError as error:
            raise UserError(f"--slurm {key}{equals}{value}: {key} takes {error}") from error
    if "time" not in values:
        raise UserError("--slurm needs time=MINUTES or time=HH:MM:SS, the limit of one job; cells that reach it resume")
    return values


@dataclass
class Share:
    """What submitit runs in one job on the cluster: a share of the cells, by the run for one machine.

    cells: all cells of the table. own: the ids of those of this job. slots: how many processes it runs at once.
    """

    cells: Sequence[Cell]
    own: Sequence[str]
    folder: TableFolder
    slots: int = 1
    rehearsal: bool = False

    def __call__(self) -> None:
        """Carry the cells out. When the time limit is near, stop them, and hand over to submitit, which queues the job again."""
        from submitit import JobEnvironment

        near = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
        requeue = signal.getsignal(near)
        came: list[int] = []

        def stop(number: int, _frame: Any) -> None:
            came.append(number)
            signal.signal(number, signal.SIG_IGN)
            raise KeyboardInterrupt

        signal.signal(near, stop)
        gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        slots = Slots(self.slots, tuple(gpus[: self.slots]) if len(gpus) >= self.slots > 1 else ())
        try:
            LocalRun(self.cells, self.folder, slots, rehearsal=self.rehearsal, only=self.own).run()
        except KeyboardInterrupt:
            if not came or not callable(requeue):
                raise
            requeue(came[0], None)
        finally:
            signal.signal(near, requeue)

    def checkpoint(self) -> Any:
        """Return what a job that is queued again does: the same; what is done stays done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def check_slurm() -> None:
    """Raise UserError where this machine cannot submit jobs to SLURM."""
    missing = [program for program in ("sbatch", "srun") if shutil.which(program) is None]
    if missing:
        remedy = "run it on a login node of the cluster, or give --gpus N or --processes N to work here"
        raise UserError(f"--slurm: this machine has no {' and no '.join(missing)}; {remedy}")


def submit(
    cells: Sequence[Cell], folder: TableFolder, parameters: Mapping[str, Any], name: str, slots: int = 1, rehearsal: bool = False
) -> list[str]:
    """Submit what is missing of a table, and return the job id of each array.

    parameters: those of `read_parameters`. slots: how many processes one job runs at once, one for each GPU of its node.
    Raises UserError where there is no SLURM, and where it refuses the jobs.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    check_slurm()
    missing = [cell for cell in cells if not is_done(cell, folder.noted(cell), folder)]
    executor = SlurmExecutor(jobs_folder(folder), max_num_timeout=TIMEOUTS)
    arrays: list[str] = []
    for stage in stages(missing):
        after = {"dependency": f"afterany:{':'.join(arrays)}"} if arrays else {}
        executor.update_parameters(**{"signal_delay_s": DELAY, **parameters, **after, "job_name": f"densebench-{name}"[:60]})
        try:
            with executor.batch():
                own = [[cell.id for cell in share] for share in shares(stage, slots)]
                jobs = [executor.submit(Share(cells, ids, folder, slots, rehearsal)) for ids in own]
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise UserError(f"--slurm: sbatch refused the jobs: {' '.join(str(error).split())[-300:]}") from error
        arrays.append(jobs[0].job_id.split("_")[0])
    return arrays


def stages(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return cells by when they can begin: first those that need none of the others, then those that need only these, ..."""
    rest, found = {cell.id: cell for cell in cells}, list[list[Cell]]()
    while rest:
        now = [cell for cell in rest.values() if not any(need in rest for need in (*cell.needs, *cell.wants))]
        if not now:
            raise UserError(
                f"{', '.join(cell.label for cell in rest.values())}: each needs another one of these; break the circle"
            )
        found.append(now)
        rest = {identity: cell for identity, cell in rest.items() if cell not in now}
    return found


def shares(cells: Sequence[Cell], slots: int) -> list[list[Cell]]:
    """Return the cells of each job: those that share features go together, and a job has about as many such groups as slots."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.backbone, cell.dataset) if cell.kind == "evaluation" else cell.id, []).append(cell)
    found: list[list[Cell]] = []
    room = 0
    for group in groups.values():
        width = min(slots, max(cell.processes for cell in group))
        if width > room:
            found.append([])
            room = slots
        found[-1] += group
        room -= width
    return found
