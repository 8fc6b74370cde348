"""Processes that decode: a script without a guard runs once, and what cannot be sent to them is decoded in its own process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from densebench.datasets.io.loader import Samples, make_loader

HEAD = """
import os, sys
from densebench.datasets.io.loader import Samples, make_loader
print("runs", flush=True)
"""
OWN = """
class Own(Samples):
    def sample(self, key):
        return key, os.getpid()
"""
READ = """
samples = [sample for batch in make_loader({samples}, list, 1, False, batch_sampler=[[0, 1], [2]], prefetch_factor=2)
           for sample in batch]
assert [key for key, _ in samples] == [0, 1, 2]
print("apart" if {{pid for _, pid in samples}} != {{os.getpid()}} else "here", flush=True)
"""
UNGUARDED = HEAD + OWN + READ.format(samples="Own()")
GUARDED = HEAD + OWN + 'if __name__ == "__main__":' + READ.format(samples="Own()").replace("\n", "\n    ")
IMPORTED = HEAD + "from elsewhere import Own" + READ.format(samples="Own()")


class Numbers(Samples):
    def sample(self, key):
        return key


def run(folder, *words, stdin=None):
    """Run Python beside a module `elsewhere` that defines Own too; return the lines that it prints, and its messages."""
    (folder / "elsewhere.py").write_text("import os\nfrom densebench.datasets.io.loader import Samples\n" + OWN)
    own = {**os.environ, "PYTHONPATH": str(folder), "DENSEBENCH_CACHE": str(folder / "cache")}
    command = [sys.executable, "-W", "ignore", *words]
    done = subprocess.run(command, cwd=folder, env=own, input=stdin, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once_and_has_workers(tmp_path):
    (tmp_path / "script.py").write_text(IMPORTED)
    assert run(tmp_path, "script.py") == (["runs", "apart"], "")


@pytest.mark.slow
def test_a_guarded_script_has_workers_for_what_it_defines(tmp_path):
    (tmp_path / "script.py").write_text(GUARDED)
    assert run(tmp_path, "script.py") == (["runs", "runs", "apart"], "")


@pytest.mark.slow
def test_what_a_script_without_a_guard_defines_is_decoded_here_and_the_line_is_named(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    lines, said = run(tmp_path, "script.py")
    assert lines == ["runs", "here"]
    [message] = said.splitlines()
    line = 1 + UNGUARDED.splitlines().index(READ.format(samples="Own()").splitlines()[1])
    assert "they need Own from it" in message
    assert f'with the line `if __name__ == "__main__":` above line {line}, 1 processes do it' in message


@pytest.mark.slow
@pytest.mark.parametrize("how", ["-c", "-"])
def test_what_has_no_file_is_decoded_here(how, tmp_path):
    words = ["-c", UNGUARDED] if how == "-c" else ["-"]
    lines, said = run(tmp_path, *words, stdin=None if how == "-c" else UNGUARDED)
    assert lines == ["runs", "here"]
    assert "Own is defined in a notebook or at a prompt" in said and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["-c", "-"])
def test_code_without_a_file_has_workers_for_what_it_imports(how, tmp_path):
    words = ["-c", IMPORTED] if how == "-c" else ["-"]
    assert run(tmp_path, *words, stdin=None if how == "-c" else IMPORTED) == (["runs", "apart"], "")


@pytest.mark.slow
def test_an_evaluation_at_the_top_of_a_script(tmp_path):
    words = "eval --protocol incontext --backbone pixels:16 --dataset scenes --limit 4 --neighbours 2 --workers 1"
    head = f"import sys\nfrom densebench.cli import main\nsys.argv = 'densebench {words}'.split()\n"
    script = head + "print('runs', flush=True)\nmain()\n"
    (tmp_path / "script.py").write_text(script)
    lines, said = run(tmp_path, "script.py")
    assert lines[0] == "runs" and lines.count("runs") == 1
    assert "features: 4/4 images in" in said and "in this process" not in said


def test_what_cannot_be_sent_is_decoded_here(capsys):
    samples = Numbers()
    samples.unsendable = lambda: None
    loader = make_loader(samples, list, 2, False, batch_sampler=[[3, 4]], prefetch_factor=2)
    assert list(loader) == [[3, 4]]
    assert "other processes cannot be sent what decodes the images" in capsys.readouterr().err
    list(make_loader(samples, list, 2, False, batch_sampler=[[3, 4]]))
    assert capsys.readouterr().err == ""


def test_the_main_module_keeps_its_file_and_its_name():
    main = sys.modules["__main__"]
    before = main.__spec__, getattr(main, "__file__", None)
    assert list(make_loader(Numbers(), list, 1, False, batch_sampler=[[3]])) == [[3]]
    assert (main.__spec__, getattr(main, "__file__", None)) == before
