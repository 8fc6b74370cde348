"""Cells whose work takes a moment and imports nothing heavy: they write a file, fail, wait or kill their process.

The module must be importable where the cells are carried out, in processes of their own: see `processes_find_it`.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from densebench.errors import UserError
from densebench.tables.carrying_out import WORK
from densebench.tables.cells import Cell
from densebench.tables.states import TableFolder


@dataclass(frozen=True)
class Toy(Cell):
    """A cell of the kind `toy`; its request says what it does and the file that it writes."""


def toy(folder: TableFolder, name: str, does: str = "write", needs: tuple[str, ...] = (), **more) -> Toy:
    """A cell that does one of the things in `work`."""
    request = {"does": does, "file": str(folder.results / f"{name}.txt")}
    return Toy(name, "toy", f"cell {name}", ("densebench", "eval", name), request, needs, **more)


def written(folder: TableFolder) -> dict[str, int]:
    """How often each cell has written its file."""
    return {path.stem: len(path.read_text().splitlines()) for path in sorted(folder.results.glob("*.txt"))}


def work(state) -> dict:
    """Do what a cell's request says."""
    file, does = Path(state.cell.request["file"]), state.cell.request["does"]
    if does == "fail":
        raise UserError("the weights are of another architecture; give others")
    if does == "crash":
        raise ValueError("an odd value")
    if does == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "wait":
        file.with_suffix(".began").touch()
        deadline = time.monotonic() + 60
        while not file.with_suffix(".go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    with file.open("a") as stream:
        stream.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    return {"outputs": [str(file)]}


WORK["toy"] = work


@pytest.fixture
def folder(tmp_path, monkeypatch) -> TableFolder:
    """The folder of a table; processes that are started find this module."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    return TableFolder(tmp_path, "table")


def words(states) -> dict[str, str]:
    """The state of each cell, in a word."""
    return {state.cell.id: state.word for state in states}
