"""Files that appear whole or not at all: what killed processes leave is swept, a full disk is one line, locks are waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from densebench.errors import UserError
from densebench.files.atomic import check_output, replacing, sweep, write_text
from densebench.files.locks import locked
from densebench.files.store import Store


def run(code, **more):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **more)


def hidden(folder):
    return sorted(path.name for path in folder.rglob("*") if ".part" in path.name or path.name.startswith(".tmp"))


def killed_while_writing(path, limit=None):
    """What a process leaves that dies in the middle of a shard."""
    full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1))" if limit else ""
    run(f"""
import os, pathlib, signal
from densebench.files.atomic import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
{full}
if {limit}:
    import torch
    from densebench.files.tensors import save_tensors
    save_tensors(pathlib.Path({str(path)!r}), {{"x": torch.zeros(100_000)}})
with replacing(pathlib.Path({str(path)!r})) as part:
    part.write_text("half")
    os._exit(1)
""")


@pytest.mark.parametrize("limit", [None, 10_000])
def test_what_a_killed_process_left_is_swept_when_the_store_is_opened(tmp_path, limit):
    folder = tmp_path / "features" / "a"
    killed_while_writing(folder / "s.safetensors", limit)
    assert hidden(folder)
    Store(folder, {})
    assert not hidden(folder) and not (folder / "s.safetensors").exists()


def test_what_a_living_process_writes_is_not_swept(tmp_path):
    with replacing(tmp_path / "x") as part:
        part.write_text("new")
        assert (
            run(f"import pathlib; from densebench.files.atomic import sweep; sweep(pathlib.Path({str(tmp_path)!r}))").returncode
            == 0
        )
        sweep(tmp_path)
    assert (tmp_path / "x").read_text() == "new" and not hidden(tmp_path)


@pytest.mark.parametrize(
    ("name", "days", "swept"),
    [
        (".x.1234567-{other}.abcdefgh.part", 6, False),
        (".x.1234567-{other}.abcdefgh.part", 8, True),
        (".x.abcdefgh.part", 0.5, False),
        (".x.abcdefgh.part", 1.5, True),
        ("x.abcdefgh.part", 100, False),
        (".x.part", 100, False),
    ],
)
def test_parts_of_unknown_owners_are_swept_by_age(tmp_path, name, days, swept):
    path = tmp_path / name.format(other="0" * 8)
    path.write_text("half")
    then = time.time() - days * 24 * 3600
    os.utime(path, (then, then))
    sweep(tmp_path)
    assert path.exists() != swept


def test_a_new_file_has_the_usual_mode_and_replaces_the_old_one(tmp_path):
    (tmp_path / "plain").touch()
    for text in ("one", "two"):
        write_text(tmp_path / "x", text)
    assert (tmp_path / "x").read_text() == "two" and hidden(tmp_path) == []
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_of_the_same_name_is_told(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=r"x: there is a folder of that name; remove it"):
        write_text(tmp_path / "x", "")


def test_a_lock_is_waited_for_with_one_line(tmp_path):
    code = f"""
import pathlib, time
from densebench.files.locks import locked
with locked(pathlib.Path({str(tmp_path)!r}), "a.lock", "waiting for another", passing=True):
    print("mine", flush=True)
"""
    with locked(tmp_path, "a.lock", "unsaid", passing=True):
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert other.stderr.readline() == "waiting for another\n"
        assert other.poll() is None
    out, err = other.communicate(timeout=30)
    assert out == "mine\n" and err == ""
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_can_be_written_is_asked_about_without_a_trace(tmp_path):
    check_output(tmp_path / "new" / "page.html")
    assert list(tmp_path.iterdir()) == []
