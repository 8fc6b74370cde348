"""The command line on terminals that lack characters, with output that cannot be written, and under Ctrl-C at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time

import pytest
from made_records import BACKBONE, DATASET, PROTOCOL
from tiers import late

from densebench.results import record as records
from densebench.results.score import Score

# A process in the background, as the tests may be, ignores Ctrl-C, and so would its children.
CODE = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[0] = 'densebench'; {before}; \
from densebench.cli import main; main()"


@pytest.fixture
def folder(tmp_path):
    """A folder with a record whose table has "±", and whose name has a letter that ASCII lacks."""
    header = {
        "backbone": {**BACKBONE, "spec": "random:vit", "name": "Zoë ×2…", "digest": "d"},
        "protocol": {
            **PROTOCOL,
            "name": "incontext", "preset": "hummingbird", "version": 1, "settings": {},
            "headline": {"metric": "miou", "variant": "identity"},
        },
        "dataset": {**DATASET, "name": "scenes", "split": "val", "images": 64, "digest": "abc", "limit": None},
    }  # fmt: skip
    record = records.open_or_create(tmp_path / "results", header)
    record.add(
        [Score("miou", "identity", 50.0 + seed, axes={"fraction": 8, "seed": seed}, direction="higher") for seed in range(2)]
    )
    record.finish("complete", {})
    return tmp_path


def start(folder, *words, before="pass", environment=None, **more):
    own = {"DENSEBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    own = {**os.environ, **own, **(environment or {})}
    command = [sys.executable, "-W", "ignore", "-c", CODE.format(before=before), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen(command, cwd=folder, env=own, start_new_session=True, **pipes)


def ended(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


C = {"LC_ALL": "C", "LANG": "", "LC_CTYPE": ""}
ASCII = {"PYTHONIOENCODING": "ascii"}
UTF8 = {"LC_ALL": "C.UTF-8"}


@pytest.mark.slow
def test_a_locale_with_utf8_shows_everything(folder):
    status, out, _ = ended(start(folder, "leaderboard", environment=UTF8))
    assert status == 0
    assert "Zoë ×2…" in out.decode()
    assert "50.5 ± 0.7" in out.decode()


def test_the_locale_c_has_plus_minus_and_loses_no_letter_of_a_name(folder):
    status, out, _ = ended(start(folder, "leaderboard", environment=C))
    assert status == 0
    assert "50.5 +- 0.7" in out.decode()
    assert "Zoë x2..." in out.decode()


def test_an_encoding_without_a_character_has_its_likeness(folder):
    status, out, _ = ended(start(folder, "leaderboard", environment=ASCII))
    assert status == 0
    assert "50.5 +- 0.7" in out.decode("ascii")
    assert "Zo? x2..." in out.decode("ascii")


@pytest.mark.slow
def test_a_terminal_of_the_locale_c_gets_ascii(folder):
    main, terminal = pty.openpty()
    process = start(folder, "leaderboard", environment=C, stdout=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(main, 65536):
            shown += part
    os.close(main)
    assert ended(process)[0] == 0
    assert "50.5 +- 0.7" in shown.decode("ascii")
    assert "Zo? x2..." in shown.decode("ascii")


def test_messages_on_stderr_too(folder):
    status, _, err = ended(start(folder, "leaderboard", "--results", "nö × 3", environment=ASCII))
    assert status == 2
    assert "n? x 3 holds no record" in err.decode("ascii")


def test_a_file_written_by_option_is_utf8_whatever_the_locale(folder):
    assert ended(start(folder, "leaderboard", "--output", "board.md", environment=C))[0] == 0
    assert "50.5 ± 0.7" in (folder / "board.md").read_text(encoding="utf-8")


def full():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.parametrize("words", late([["ls"], ["--help"], ["leaderboard"]], ["leaderboard"]), ids=" ".join)
def test_output_that_cannot_be_written_is_one_line(folder, words):
    with (folder / "out").open("w") as out:
        status, _, err = ended(start(folder, *words, stdout=out, preexec_fn=full))
    assert status == 1
    assert err.decode() == "densebench: the output cannot be written: File too large\n"


@pytest.mark.slow
def test_a_pipe_that_is_full_is_one_line(folder):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, b"x" * 4096):
            pass
    status, _, err = ended(start(folder, "ls", stdout=writing))
    assert status == 1
    assert err.decode().startswith("densebench: the output cannot be written: ")
    assert err.count(b"\n") == 1
    os.close(reading)
    os.close(writing)


def test_a_reader_that_has_gone_is_no_error_to_speak_of(folder):
    reading, writing = os.pipe()
    os.close(reading)
    status, _, err = ended(start(folder, "ls", stdout=writing))
    os.close(writing)
    assert (status, err) == (1, b"")


def test_closed_output_is_no_traceback(folder):
    assert ended(start(folder, "ls", preexec_fn=lambda: os.close(1))) == (0, b"", b"")


SLOW = "import time, densebench.features.views as v; p = v.View.image; "
SLOW += "v.View.image = lambda *a: (print('R', flush=True), time.sleep(0.3), p(*a))[2]"
EVAL = [
    "eval",
    "--protocol",
    "incontext",
    "--backbone",
    "pixels:16",
    "--dataset",
    "scenes",
    "--limit",
    "200",
    "--neighbours",
    "5",
]


def wait(process, word):
    for line in process.stdout:
        if line.startswith(word):
            return


def interrupted(process):
    """Send Ctrl-C to a process and to all its children, as a terminal does."""
    os.killpg(process.pid, signal.SIGINT)
    return ended(process)


@pytest.mark.slow
def test_ctrl_c_says_how_to_resume(folder):
    process = start(folder, *EVAL, "--rerun", "--name", "it's mine", before=SLOW)
    wait(process, b"R")
    status, _, err = interrupted(process)
    assert status == 130
    said = err.decode().splitlines()
    assert said[-1] == f"densebench: stopped; `densebench {' '.join(EVAL)} --name 'it'\"'\"'s mine'` resumes from there"
    assert b"Traceback" not in err
    [path] = [path for path in (folder / "results" / "records").glob("*.json") if '"limit": 200' in path.read_text()]
    assert json.loads(path.read_text())["status"] == "failed"


@pytest.mark.slow
def test_ctrl_c_while_workers_start_is_no_traceback(folder):
    before = "import densebench.datasets.io.loader as f; p = f.worker_context; "
    before += "f.worker_context = lambda *a: (print('R', flush=True), p(*a))[1]"
    process = start(folder, *EVAL, "--workers", "2", before=before)
    wait(process, b"R")
    time.sleep(0.7)  # they import what they need
    status, _, err = interrupted(process)
    assert status == 130
    assert b"Traceback" not in err
    assert err.decode().splitlines()[-1].endswith("resumes from there")


STUCK = """
import atexit, time
def stuck():
    print('A', flush=True)
    time.sleep(60)
atexit.register(stuck)
"""


def test_ctrl_c_while_torch_is_imported(folder):
    before = "import builtins; p = builtins.__import__; "
    before += (
        "builtins.__import__ = lambda name, *a, **k: (print('R', flush=True) if name == 'torch' else 0, p(name, *a, **k))[1]"
    )
    process = start(folder, *EVAL, before=before)
    wait(process, b"R")
    status, _, err = interrupted(process)
    assert status == 130
    assert b"Traceback" not in err
    assert err.decode().splitlines()[-1].endswith("resumes from there")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(folder):
    held = "import densebench.results.record as r, time; r.Record.finish = lambda *a: (print('F', flush=True), time.sleep(60))"
    process = start(folder, *EVAL, before=f"{SLOW}; {held}")
    wait(process, b"R")
    os.killpg(process.pid, signal.SIGINT)
    wait(process, b"F")
    status, _, err = interrupted(process)
    assert status == 130
    assert b"Traceback" not in err


@pytest.mark.parametrize("words", late([["ls"], ["leaderboard", "--results", "nowhere"]], ["ls"]), ids=" ".join)
def test_ctrl_c_while_the_interpreter_ends_is_no_traceback(folder, words):
    process = start(folder, *words, before=f"exec({STUCK!r})")
    wait(process, b"A")
    status, _, err = interrupted(process)
    assert status == 130
    assert b"Traceback" not in err
    assert b"Exception" not in err


def test_ctrl_c_in_another_command_is_one_line(folder):
    before = "import densebench.results.leaderboard as b, time, sys; "
    before += "sys.modules['densebench.results.leaderboard'].frame = lambda *a, **k: (print('R', flush=True), time.sleep(60))"
    process = start(folder, "leaderboard", before=before)
    wait(process, b"R")
    status, _, err = interrupted(process)
    assert (status, err) == (130, b"densebench: stopped; finished work is saved\n")
