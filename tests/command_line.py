"""The command line called in this process, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from densebench.cli import main

LIGHT = "import atexit; atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'LIGHT'))"
"""Code to run before a command, so that the last line that it prints says whether it imported torch."""


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message of a command that ended with status 2: the only line of its kind, and the last one."""
        lines = self.err.strip().splitlines()
        assert self.status == 2, self.err
        assert [line for line in lines if line.startswith("densebench: ")] == lines[-1:]
        assert "Traceback" not in self.err
        return lines[-1]


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def call(*words: object, folder: Path, out: io.StringIO | None = None) -> Done:
    """Run a command in a folder, with a cache of its own there. out: what its standard output is; none: no terminal."""
    out, err = out or io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("DENSEBENCH_CACHE", str(folder / "cache"))
        patch.setattr("sys.argv", ["densebench", *map(str, words)])
        for module, name in ((sys, "unraisablehook"), (threading, "excepthook")):
            patch.setattr(module, name, getattr(module, name))  # Ctrl-C is for the tests again afterwards
        handler = signal.getsignal(signal.SIGINT)
        try:
            main()
        except SystemExit as end:
            status = end.code
        finally:
            signal.signal(signal.SIGINT, handler)
    assert isinstance(status, int)
    return Done(status, out.getvalue(), err.getvalue())


def start(*words: object, folder: Path, before: str = "pass", **environment: str) -> subprocess.Popen[str]:
    """Start a command in a process of its own; `before` is code that it runs first."""
    code = f"import sys; sys.argv[0] = 'densebench'; {before}; from densebench.cli import main; main()"
    own = {**os.environ, "DENSEBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*words: object, folder: Path, before: str = "pass", **environment: str) -> Done:
    """Run a command in a process of its own."""
    process = start(*words, folder=folder, before=before, **environment)
    out, err = process.communicate(timeout=300)
    return Done(process.returncode, out, err)


def record(folder: Path) -> dict:
    """Return the only record in ./results of a folder."""
    [path] = (folder / "results" / "records").glob("*.json")
    return json.loads(path.read_text())


def measured(record: dict) -> dict:
    """Return a record without what differs from run to run by nature: times, and the state of the checkout."""
    return {name: value for name, value in record.items() if name not in ("run", "code")}
