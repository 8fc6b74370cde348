"""Checks, and how a list of them is carried out."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from densebench.console import one_line
from densebench.errors import Stopped, UserError


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    passed: True, False, or None where it does not apply. message: what was seen; for a failed check also what was expected and
    what to change; for a skipped one why.
    """

    name: str
    passed: bool | None
    message: str

    def __str__(self) -> str:
        word = {True: "ok", False: "FAILED", None: "skipped"}[self.passed]
        return one_line(f"{word:7}  {self.name}: {self.message}")


class Failed(Exception):  # noqa: N818
    """A check found a mistake. The text says what was seen, what was expected and what to change."""


class Skipped(Exception):  # noqa: N818
    """A check does not apply. The text says why."""


@dataclass(frozen=True)
class Step:
    """One check to carry out.

    work: returns what it saw, or raises Failed or Skipped. needed: where it fails, the checks after it are skipped.
    """

    name: str
    work: Callable[[], str]
    needed: bool = False


def carried_out(steps: Iterable[Step]) -> Iterator[Check]:
    """Yield the outcome of each check. What the code under test raises fails its check; progress lines are not shown.

    Once a needed check fails, those after it are skipped.
    """
    missing = ""
    for step in steps:
        if missing:
            yield Check(step.name, None, f"needs {missing!r}, which failed")
            continue
        outcome = _outcome(step)
        if step.needed and not outcome.passed:
            missing = step.name
        yield outcome


def _outcome(step: Step) -> Check:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return Check(step.name, True, step.work())
    except Failed as failed:
        return Check(step.name, False, str(failed))
    except Skipped as skipped:
        return Check(step.name, None, str(skipped))
    except UserError as error:
        return Check(step.name, False, str(error))
    except (Stopped, MemoryError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Check(step.name, False, f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})")


@contextmanager
def own_cache() -> Iterator[Path]:
    """Use an empty cache folder in the block, so that nothing of earlier runs is reused and nothing is left behind."""
    before = os.environ.get("DENSEBENCH_CACHE")
    with tempfile.TemporaryDirectory(prefix="densebench-check-") as folder:
        os.environ["DENSEBENCH_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("DENSEBENCH_CACHE")
            if before is not None:
                os.environ["DENSEBENCH_CACHE"] = before
