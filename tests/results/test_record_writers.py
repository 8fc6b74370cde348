"""Records that several write at once, writers that are killed, and folders that cannot be written."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest
from made_records import header, miou

from densebench.errors import UserError
from densebench.results import record as records

HEADER = header("random:vit")


def write(folder, offset):
    record = records.open_or_create(folder, HEADER)
    for seed in range(offset, offset + 50):
        record.add([miou(50.0, seed=seed)])


def test_two_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=write, args=(tmp_path, offset)) for offset in (0, 50)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [s["seed"] for s in records.open_or_create(tmp_path, HEADER).json()["scores"]] == list(range(100))


def write_for_ever(folder):
    record = records.open_or_create(folder, HEADER)
    for seed in range(100_000):
        record.add([miou(50.0, bootstrap=(1.0,) * 1000, seed=seed)])


def test_kill_9_leaves_a_whole_record(tmp_path):
    writer = multiprocessing.get_context("forkserver").Process(target=write_for_ever, args=(tmp_path,))
    writer.start()
    path = tmp_path / "records" / f"{records.identity_of(HEADER)}.json"
    deadline = time.monotonic() + 30
    while (not path.exists() or len(records.read(path)["scores"]) < 20) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    seeds = [s["seed"] for s in records.read(path)["scores"]]
    assert len(seeds) >= 20
    assert seeds == list(range(len(seeds)))
    records.open_or_create(tmp_path, HEADER).add([miou(1.0, seed=7)])  # the lock is free


def in_threads(*jobs):
    """Run jobs at once and return what they raise."""
    caught = []

    def guarded(job):
        try:
            job()
        except Exception as error:
            caught.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return caught


def test_many_may_probe_a_folder_at_once(tmp_path):
    def probe():
        for _ in range(100):
            records.check_writable(tmp_path)

    assert in_threads(*[probe] * 4) == []
    assert [path.name for path in (tmp_path / "records").iterdir()] == [".lock"]


def test_a_rerun_beside_another_writer_breaks_nothing(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)

    def write():
        for seed in range(300):
            record.add([miou(50.0, seed=seed % 5)])

    def empty():
        for _ in range(300):
            records.open_or_create(tmp_path, HEADER, rerun=True)

    assert in_threads(write, empty) == []


def test_a_lock_that_cannot_be_had_is_told_first(tmp_path):
    (tmp_path / "records" / ".lock").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot write in .*records.*choose another folder"):
        records.check_writable(tmp_path)


def test_a_folder_that_cannot_be_written_is_told_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write in .*choose another folder"):
        records.check_writable(tmp_path / "file" / "results")
