"""Processes that decode images: how they start, and what can be sent to them.

multiprocessing imports the main module in every process that it starts, so that a script without the line
`if __name__ == "__main__":` would run again in each of them. Here it does so only where what is sent to the processes is defined
there. Where that cannot work (a notebook, a script without that line), images are decoded in this process.
"""

from __future__ import annotations

import ast
import functools
import multiprocessing
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import numpy as np
from torch import Tensor

from densebench.console import warn

METHOD = "spawn" if sys.platform == "win32" else "forkserver"
QUIET = "ignore:resource_tracker:UserWarning"
INSTEAD = "images are decoded in this process, which may take longer"
_context: Any = multiprocessing.get_context(METHOD)
_hiding = threading.RLock()


def worker_context(workers: int, with_script: bool = False) -> Any:
    """Return the context of multiprocessing that starts the processes which decode; None for 0 processes.

    with_script: whether they import the main module. They ignore Ctrl-C, since the main process ends them.
    """
    if not workers:
        return None
    if METHOD == "forkserver":
        _start_server()
    return _context if with_script else _WithoutScript()


def _start_server() -> None:
    """Start the server process, which starts the others; they inherit from it that they ignore Ctrl-C."""
    from multiprocessing import forkserver

    if threading.current_thread() is threading.main_thread() and (before := signal.getsignal(signal.SIGINT)) is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.warnoptions.append(QUIET)  # else their helper warns about the semaphores that a second Ctrl-C leaves behind
        try:
            with _script_hidden():
                forkserver.ensure_running()
        finally:
            sys.warnoptions.remove(QUIET)
            signal.signal(signal.SIGINT, before)


class Worker(_context.Process):  # type: ignore[misc]
    """A process that does not import the main module."""

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802
        with _script_hidden():
            return _context.Process._Popen(process)


class _WithoutScript(type(_context)):  # type: ignore[misc]
    Process = Worker


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Hide from multiprocessing, during the block, the two attributes of the main module by which it finds its file."""
    script = sys.modules["__main__"]
    with _hiding:
        names = {name: getattr(script, name) for name in ("__spec__", "__file__") if hasattr(script, name)}
        try:
            for name in names:
                setattr(script, name, None)
            yield
        finally:
            for name, value in names.items():
                setattr(script, name, value)


def usable(workers: int, sent: Any) -> tuple[int, bool]:
    """Return how many of the requested processes can decode (all or none), and whether they have to import the main module.

    sent: the objects that they get. Where no process can get them, a warning says why.
    """
    if not workers:
        return 0, False
    try:
        name = _from_script(sent)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        _warn_once(f"other processes cannot be sent what decodes the images ({error}); {INSTEAD}")
        return 0, False
    if name is None:
        return workers, False
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None or not Path(file).is_file():
        remedy = f"with {name} in a .py file that is imported here, {workers} processes do it"
        _warn_once(f"{name} is defined in a notebook or at a prompt, where other processes cannot import it: {INSTEAD}; {remedy}")
        return 0, False
    line = _unguarded_line(Path(file))
    if line is not None:
        remedy = f'with the line `if __name__ == "__main__":` above line {line}, {workers} processes do it'
        _warn_once(f"other processes would run {file} again, as they need {name} from it: {INSTEAD}; {remedy}")
        return 0, False
    return workers, True


@functools.cache
def _warn_once(text: str) -> None:
    warn(text)


class _Search(ForkingPickler):
    """Pickles without output and without the contents of arrays, to note the first class or function of the main module."""

    def __init__(self) -> None:
        super().__init__(self)
        self.name: str | None = None

    def write(self, part: Any) -> int:
        """Discard what was pickled."""
        return len(part)

    def reducer_override(self, value: Any) -> Any:
        """Return an empty placeholder for an array; leave all else to pickle."""
        if isinstance(value, Tensor | np.ndarray):
            return bytes, ()
        if isinstance(value, type | FunctionType) and value.__module__ == "__main__":
            self.name = self.name or value.__qualname__
        return NotImplemented


def _from_script(sent: Any) -> str | None:
    """Return the name of a class or a function of the main module that is needed to unpickle a value; None if none is."""
    search = _Search()
    search.dump(sent)
    return search.name


def _unguarded_line(script: Path) -> int | None:
    """Return the line of the script that runs now and is not under `if __name__ == "__main__":`; None where there is none."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not (frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"):
        frame = frame.f_back
    if frame is None:
        return None
    line = frame.f_lineno
    try:
        statements = ast.parse(script.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return line
    return None if any(_is_guard(node) and node.lineno <= line <= (node.end_lineno or 0) for node in statements) else line


def _is_guard(node: ast.stmt) -> bool:
    """Return whether a statement is `if __name__ == "__main__":`."""
    parts = ast.unparse(node.test) if isinstance(node, ast.If) else ""
    return parts in ("__name__ == '__main__'", "'__main__' == __name__")
