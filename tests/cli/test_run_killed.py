"""`densebench run` killed, stopped and run twice at once: its records are those of separate calls of `densebench eval`."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress

import command_line
import pytest

from densebench.files.locks import process_lives
from densebench.tables.cells import Places, cells
from densebench.tables.states import TableFolder, states
from densebench.tables.table_file import read_table

TABLE = """
[[backbone]]
spec = "random:test_vit"
name = "net"
[[backbone]]
spec = "random:test_vit"
name = "other"
seed = 1
[[evaluation]]
protocol = "incontext"
datasets = ["scenes"]
fractions = [1, 8]
seeds = 1
limit = 16
[[evaluation]]
protocol = "kmeans"
datasets = ["scenes"]
seeds = 1
limit = 16
"""
TOGETHER = """
[[backbone]]
spec = "random:test_vit"
name = "net"
[[evaluation]]
protocol = "incontext"
datasets = ["scenes"]
fractions = [1, 8]
seeds = 1
limit = 16
processes = 2
"""
OWN_GROUP = "import os, signal; os.setsid(); signal.signal(signal.SIGINT, signal.default_int_handler)"

pytestmark = pytest.mark.slow


class Here:
    """A table in a folder."""

    def __init__(self, path, text):
        self.path = path
        (path / "small.toml").write_text(text)
        self.folder = TableFolder(path / "results", "small")

    def start(self, **environment):
        return command_line.start("run", "small.toml", "--processes", "2", folder=self.path, before=OWN_GROUP, **environment)

    @property
    def cells(self):
        return cells(read_table(self.path / "small.toml"), Places(results=self.path / "results"))

    def words(self):
        return [state.word for state in states(self.cells, self.folder)]

    def notes(self):
        return [self.folder.noted(cell) for cell in self.cells]

    def running(self):
        return [note["pid"] for cell, note in zip(self.cells, self.notes(), strict=True) if note and self.folder.is_held(cell)]

    def records(self, place="results"):
        read = [json.loads(path.read_text()) for path in (self.path / place / "records").glob("*.json")]
        return {record["id"]: command_line.measured(record) for record in read}

    def evaluate_apart(self):
        """Return the records of separate calls, with a cache of their own."""
        (self.path / "apart").mkdir()
        for cell in self.cells:
            words = [*cell.command[1:]]
            for flag in ("--results", "--gpus"):
                if flag in words:
                    del words[words.index(flag) : words.index(flag) + 2]
            assert command_line.call(*words, folder=self.path / "apart").status == 0
        return self.records("apart/results")

    def is_tidy(self):
        """Return whether nothing is held or half written, and no pickle is left."""
        return self.running() == [path for pattern in (".*.part", "*.pkl") for path in self.path.rglob(pattern)] == []


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start_until(here, condition):
    process = here.start()
    wait_for(condition)
    return process


def kill(here, process):
    """End a run and its cells at once, as when the machine goes down."""
    os.killpg(process.pid, signal.SIGKILL)
    for pid in here.running():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not here.running())


def test_killed_in_the_middle_and_ended_by_two_runs_at_once_it_writes_the_records_of_eval(tmp_path):
    here = Here(tmp_path, TABLE)
    began, one_done = lambda: any(note.get("total") for note in here.notes()), lambda: "done" in here.words()
    kill(here, start_until(here, began))
    assert "interrupted" in here.words()
    kill(here, start_until(here, one_done))
    missing = sum(word != "done" for word in here.words())
    before = set(here.folder.jobs.iterdir())
    both = [here.start(DENSEBENCH_CACHE=str(tmp_path / name)) for name in ("cache", "other cache")]
    ends = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert all("4 of 4 cells done" in err for _, err in ends)
    scored = [log for folder in set(here.folder.jobs.iterdir()) - before for log in folder.glob("*.err") if log.stat().st_size]
    assert len(scored) == missing  # no cell was scored by both
    assert here.is_tidy()
    assert here.records() == here.evaluate_apart()


def test_ctrl_c_while_two_processes_work_on_a_cell_leaves_nothing_half_done_and_resumes(tmp_path):
    here = Here(tmp_path, TOGETHER)
    process = here.start()
    wait_for(lambda: any(note.get("total") for note in here.notes()))
    at_work = here.running()
    time.sleep(1)  # its two processes begin
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "densebench: stopped; `densebench run small.toml --processes 2` resumes from there"
    assert "Traceback" not in err
    assert not any(process_lives(pid) for pid in at_work)
    assert "running" not in here.words()
    assert here.is_tidy()
    again = here.start()
    _, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert here.is_tidy()
    assert here.records().keys() == here.evaluate_apart().keys()
