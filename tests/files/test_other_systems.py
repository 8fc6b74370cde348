"""Systems that lack parts of POSIX: records are written, read and ranked, and the cache works, without fcntl and resource."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_records import write

from densebench.files import cache, locks

WITHOUT = """
import os, sys
import numpy, pandas, scipy.stats  # they look at the system that they are really on
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("uname", "O_CLOEXEC", "pread", "pwrite", "killpg", "getpgid", "setsid", "sched_getaffinity"):
    delattr(os, name)
"""


def without(code, folder):
    """Run code where neither fcntl nor resource can be imported, and os has only what every system has."""
    own = {**os.environ, "DENSEBENCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT + code, str(folder)]
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_records_are_written_read_and_ranked(tmp_path):
    code = """
from pathlib import Path
from made_records import write
from densebench.results.leaderboard import leaderboard, render
write(Path(sys.argv[1]), "mine", {(1, None): 50.0})
print(render(leaderboard(Path(sys.argv[1])), "md"))
"""
    write(tmp_path, "theirs", {(1, None): 40.0})
    table = without(code, tmp_path)
    assert "mine" in table and "theirs" in table
    assert "50.0" in table and "40.0" in table


def test_the_cache_is_marked_used_and_cleared(tmp_path):
    code = """
from pathlib import Path
from densebench.files import cache
folder = Path(sys.argv[1]) / "features" / "a"
hold = cache.Hold(folder, {"spec": "s"})
print([usage.about for usage in cache.usage(folder.parents[1])])
del hold
print(cache.clear(folder.parents[1]).in_use, folder.exists())
"""
    assert without(code, tmp_path).splitlines() == ["[{'spec': 's'}]", "[] False"]


@pytest.mark.slow
def test_commands_run_and_evaluations_too(tmp_path):
    code = """
import torch
sys.argv = ["densebench", *"eval --protocol incontext --backbone pixels:16 --dataset scenes --limit 4 --neighbours 2".split()]
from densebench.cli import main
main()
"""
    assert "pixels:16 on scenes" in without(code, tmp_path)


def test_what_another_process_holds_open_is_in_use_where_open_files_cannot_be_renamed(tmp_path, monkeypatch):
    def refuse(path, target):
        raise PermissionError(13, "the process cannot access the file because it is being used by another process")

    folder = tmp_path / "features" / "a"
    monkeypatch.setattr(locks, "fcntl", None)
    hold = cache.Hold(folder, {})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        assert cache.clear(tmp_path).in_use == [folder]
    assert folder.is_dir()
    del hold
    assert cache.clear(tmp_path).in_use == []
    assert not folder.exists()


def test_no_process_is_looked_at_where_a_look_could_end_it(monkeypatch):
    def look(*_):
        raise AssertionError

    monkeypatch.setattr(locks.os, "kill", look)
    monkeypatch.setattr(locks.sys, "platform", "win32")
    assert locks.process_lives(os.getpid()) is None
