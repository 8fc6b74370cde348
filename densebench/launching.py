"""Several processes on this machine that work on one call: how they are started, and how a failure of one ends the call.

torch's elastic launcher (that of torchrun) starts the processes, ends the others when one fails, and passes Ctrl-C on to them.
A process that fails notes when and why in a folder of the call, and prints nothing: the starting process prints the first
failure alone. What the others then say of broken connections is a consequence, and is left out.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from densebench.errors import UserError

NOTES, LAUNCHER = "DENSEBENCH_FAILURES", "DENSEBENCH_LAUNCHER"
"""The environment variables by which a process knows the folder of notes, and the process that started it."""
LOOKS = 1.0  # seconds between two looks at whether the starting process lives
_together = threading.Event()


class ElsewhereError(UserError):
    """Another process has failed, which says why; this one cannot go on without it."""


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `densebench` with these arguments in so many processes of this machine, and return the exit status.

    That is the status of the process that failed first, whose message is printed on stderr: 2 for what the user can mend, 130
    after Ctrl-C, else 1.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=str(os.getpid()), rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.1,
    )  # fmt: skip
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it reports every failure at length
    with tempfile.TemporaryDirectory(prefix="densebench-") as folder:
        given = {NOTES: folder, LAUNCHER: str(os.getpid()), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            elastic_launch(config, sys.executable)("-u", "-m", "densebench", *arguments)
        except ChildFailedError as failed:
            ends = {rank: failure.exitcode for rank, failure in failed.failures.items()}
            text, status = told(notes(Path(folder)), ends, processes)
            print(text, file=sys.stderr, end="", flush=True)
            return status
        except SignalException as stopped:
            text, _ = told(notes(Path(folder)), {}, processes)
            print(text, file=sys.stderr, end="", flush=True)
            return 130 if stopped.sigval == signal.SIGINT else 128 + int(stopped.sigval)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
    return 0


def told(noted: Mapping[int, Mapping[str, Any]], ends: Mapping[int, int], processes: int) -> tuple[str, int]:
    """Return what to print of a call that failed, and its exit status.

    noted: by rank, the note of each process that left one. ends: by rank, the exit status of processes that failed; minus the
    signal for those that a signal ended. What a process noted itself counts before a signal: the launcher ends the others by one.
    """
    own = [note for note in noted.values() if not note["elsewhere"]]
    if own:
        first = min(own, key=lambda note: note["time"])
        return first["text"], int(first["status"])
    killed = {rank: -end for rank, end in ends.items() if end < 0 and -end != signal.SIGTERM}
    if killed:
        rank, number = next(iter(killed.items()))
        name = signal.Signals(number).name if number in {*map(int, signal.Signals)} else f"signal {number}"
        why = " (out of memory?)" if number == signal.SIGKILL else ""
        what = f"process {rank} of {processes} was ended by {name}{why}"
        return f"densebench: {what}; finished work is saved, and the same call resumes from there\n", 1
    if noted:
        first = min(noted.values(), key=lambda note: note["time"])
        return first["text"], int(first["status"])
    if ends.get(0, 0) > 0:
        return "", ends[0]  # the main process has reported which of several evaluations failed
    return "".join(f"densebench: process {rank} of {processes} ended with status {end}\n" for rank, end in ends.items()), 1


def notes(folder: Path) -> dict[int, dict[str, Any]]:
    """Return what processes noted in a folder when they failed, by rank."""
    found = {}
    for path in folder.glob("*.json"):
        with suppress(OSError, ValueError):
            found[int(path.stem)] = json.loads(path.read_text(encoding="utf-8"))
    return found


def note_failure(error: BaseException, text: str = "", status: int = 1) -> bool:
    """Note that this process fails by `error`, and when it first did; `text` is what is to be printed.

    Return whether another process prints it: that is so where `launch` started this one.
    """
    if not (folder := os.environ.get(NOTES)):
        return False
    path = Path(folder) / f"{os.environ.get('RANK', '0')}.json"
    earlier = notes(Path(folder)).get(int(path.stem), {})
    moment = earlier.get("time", time.time())
    note = {
        "time": moment,
        "text": text or earlier.get("text", ""),
        "status": status,
        "elsewhere": isinstance(error, ElsewhereError),
    }
    with suppress(OSError):
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(note), encoding="utf-8")
        partial.replace(path)
        return True
    return False


def is_told_here(error: BaseException) -> bool:
    """Return whether this process is to print an error: it is the main one, or failed by itself while several work together."""
    return os.environ.get("RANK", "0") == "0" or (_together.is_set() and not isinstance(error, ElsewhereError))


def begin_together() -> None:
    """Begin to work with other processes. One that `launch` started ends soon after its starter, even if that is killed."""
    _together.set()
    started_by = os.environ.get(LAUNCHER)
    if not started_by or os.getppid() != int(started_by):
        return

    def watch() -> None:
        while os.getppid() == int(started_by):
            time.sleep(LOOKS)
        os._exit(1)

    threading.Thread(target=watch, name="densebench-launcher", daemon=True).start()
