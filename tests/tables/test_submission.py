"""The cells of a table on this machine: each in a process of its own, what fails stays alone, nothing is done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from toy_cells import toy, words, written

from densebench.errors import UserError
from densebench.tables.carrying_out import carry_out
from densebench.tables.states import states
from densebench.tables.submission import LocalRun, Slots


def test_cells_run_in_order_and_what_fails_or_dies_ends_nothing_else(folder):
    cells = [
        toy(folder, "after", needs=("first",)), toy(folder, "blocked", needs=("failing",)), toy(folder, "first"),
        toy(folder, "failing", "fail"), toy(folder, "dying", "die"),
        toy(folder, "some", wants=("first", "failing", "dying")), toy(folder, "none", wants=("failing", "blocked")),
    ]  # fmt: skip
    found = LocalRun(cells, folder, Slots(2)).run()
    assert words(found) == {
        "after": "done", "blocked": "blocked", "first": "done", "failing": "failed", "dying": "interrupted",
        "some": "done", "none": "blocked",
    }  # fmt: skip
    assert written(folder) == {"after": 1, "first": 1, "some": 1}
    assert not list(folder.jobs.rglob("*.pkl"))
    assert "the weights are of another architecture" in Path(folder.noted(cells[3])["log"]).read_text()


@pytest.mark.slow
def test_running_again_runs_what_is_missing_and_tries_failed_cells_again(folder):
    cells = [toy(folder, "done"), toy(folder, "failing", "fail"), toy(folder, "after", needs=("failing",))]
    for cell in cells[:2]:
        carry_out(cell, folder)
    cells[1] = toy(folder, "failing")  # the user has mended it
    assert set(words(LocalRun(cells, folder, Slots()).run()).values()) == {"done"}
    assert written(folder) == {"done": 1, "failing": 1, "after": 1}


@pytest.mark.slow
def test_what_another_run_holds_is_waited_for_and_not_done_twice(folder):
    cells = [toy(folder, "a"), toy(folder, "b", needs=("a",))]
    looks = []
    with folder.holding(cells[0]):
        run = LocalRun(cells, folder, Slots(), report=lambda found: looks.append(words(found)))
        thread = threading.Thread(target=lambda: looks.append(words(run.run())))
        thread.start()
        while len(looks) < 3:
            time.sleep(0.05)
        assert looks[-1] == {"a": "running", "b": "waiting"}
    thread.join(60)
    assert looks[-1] == {"a": "done", "b": "done"}
    assert written(folder) == {"a": 1, "b": 1}


@pytest.mark.slow
def test_an_interrupt_stops_the_jobs_and_leaves_the_rest_for_the_next_run(folder):
    cells = [toy(folder, "a", "wait"), toy(folder, "b", needs=("a",))]

    def interrupt(found):
        if (folder.results / "a.began").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalRun(cells, folder, Slots(), report=interrupt).run()
    assert words(states(cells, folder)) == {"a": "interrupted", "b": "waiting"}
    assert folder.noted(cells[0]).get("died", 0) == 0
    (folder.results / "a.go").touch()
    assert set(words(LocalRun(cells, folder, Slots()).run()).values()) == {"done"}
    assert written(folder) == {"a": 1, "b": 1}


@pytest.mark.slow
def test_each_job_has_gpus_of_its_own(folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc,7")
    cells = [toy(folder, name, "wait", processes=count) for name, count in (("a", 1), ("b", 2), ("c", 1))]

    def go(found):
        if list(folder.results.glob("*.began")):
            for cell in cells:
                (folder.results / f"{cell.id}.go").touch()

    assert set(words(LocalRun(cells, folder, Slots.of_gpus(3), report=go).run()).values()) == {"done"}
    seen = {path.stem: path.read_text().strip() for path in folder.results.glob("*.txt")}
    assert (seen["a"], seen["b"]) == ("4", "GPU-abc,7")
    assert seen["c"] in ("4", "GPU-abc", "7")


def test_more_gpus_than_there_are_is_one_line(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert Slots.of_gpus(2).gpus == ("0", "1")
    with pytest.raises(UserError, match="--gpus 3: there are 2 GPUs here; give --gpus 2"):
        Slots.of_gpus(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="give --processes N, which works on the CPU"):
        Slots.of_gpus(1)


def test_a_cell_that_needs_more_gpus_than_are_given_is_refused_before_anything_runs(folder):
    cells = [toy(folder, "a"), toy(folder, "b", processes=4)]
    with pytest.raises(UserError, match="cell b takes 4 processes; give --gpus 4 or more"):
        LocalRun(cells, folder, Slots(2, ("0", "1"))).run()
    assert written(folder) == {}


@pytest.mark.slow
def test_killing_the_run_leaves_nothing_in_the_way_of_the_next_one(folder):
    cells = [toy(folder, "a", "wait"), toy(folder, "b"), toy(folder, "c")]
    if (process := os.fork()) == 0:
        LocalRun(cells, folder, Slots()).run()
    while not (folder.results / "a.began").exists():
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    began = []

    def go(found):
        if written(folder).keys() >= {"b", "c"}:  # while the orphan is still at its cell
            began.append(words(found)["a"])
            (folder.results / "a.go").touch()

    found = LocalRun(cells, folder, Slots(2), report=go).run()
    assert began[0] == "running"
    assert set(words(found).values()) == {"done"}
    assert not list(folder.jobs.rglob("*_submitted.pkl"))
    assert written(folder) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(folder):
    cells = [toy(folder, name) for name in "abcdef"]
    ends = []
    runs = [threading.Thread(target=lambda: ends.append(words(LocalRun(cells, folder, Slots(2)).run()))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [set(end.values()) for end in ends] == [{"done"}, {"done"}]
    assert written(folder) == dict.fromkeys("abcdef", 1)
