"""Saved states: everything that a run needs to be resumed as if it had never stopped, in one file a state.

A state is a safetensors file with a checksum; its numbers (step, optimiser groups, ...) are JSON in the file's metadata. So a
state is written whole or not at all, and a damaged one is never resumed from. Randomness has no state to save: every draw is a
function of seed, step and image.

A state may be large: the memory bank of CrIBo alone takes 4.9 GB in fp32, and an epoch of COCO changes all of it. So a thread
writes the states from a copy in main memory while the training goes on (`StateWriter`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from densebench.console import warn
from densebench.errors import UserError
from densebench.files.atomic import Damaged, unreadable
from densebench.files.tensors import load_tensors, save_tensors
from densebench.numerics.host_copy import HostCopy

FOLDER = "states"


def save_state(
    folder: Path, step: int, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, facts: dict[str, Any]
) -> Path:
    """Write `states/step-00000123.safetensors` atomically and return its path.

    Raises UserError where it cannot be written (a full disk, say); older states stay as they are.
    """
    return _write(folder, step, _tensors(modules, optimiser), facts)


class StateWriter:
    """Writes the states of a run in a thread, one after the other, and removes all but the newest `keep`.

    A state is a copy of all tensors at the moment of `save`, so the training may change them afterwards. There is one copy at a
    time; it takes as much main memory as a state. On a GPU the copies to page-locked memory are queued behind the step, and
    neither the host nor later steps wait for the disk. A state that cannot be written leaves the older ones as they are, and its
    UserError is raised by the next call of any method.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, step: int, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, facts: Mapping[str, Any]
    ) -> None:
        """Begin to write a state; wait first until the one before is written. facts: JSON values for the file's metadata."""
        self.wait()
        copies = {name: _copied(tensor) for name, tensor in _tensors(modules, optimiser).items()}
        self._thread = threading.Thread(
            target=self._work, args=(step, copies, dict(facts)), name="densebench-states", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a state that could not be written, if there is one, without a wait for the thread."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait until the last state is written and older ones are removed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _work(self, step: int, copies: dict[str, Callable[[], Tensor]], facts: dict[str, Any]) -> None:
        try:
            _write(self.folder, step, {name: copies[name]() for name in list(copies)}, facts)
            retain(self.folder, self.keep)
        except BaseException as error:
            self._error = error


def _tensors(modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of a state by name; none is copied."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{number}/{key}": torch.as_tensor(value) for key, value in state.items()}
    return tensors


def _copied(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin a copy of a tensor as it is now, and return a function that returns it, on the CPU."""
    if tensor.is_cuda:
        return HostCopy(tensor).value
    copy = tensor.detach().clone()
    return lambda: copy


def _write(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    path = folder / FOLDER / f"step-{step:08}.safetensors"
    save_tensors(path, tensors, {"state": json.dumps({"step": step, **facts})})
    return path


def load_newest(
    folder: Path, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer
) -> tuple[Path, dict[str, Any]] | None:
    """Load the newest undamaged state into the modules and the optimiser; return its path and its facts, None without any state.

    A notice names each damaged state. Raises Damaged where all are damaged, and UserError for one that cannot be read or is of
    another network.
    """
    damage: Damaged | None = None
    for path in reversed(saved_states(folder)):
        if damage is not None:
            warn(f"{damage}; the state before it is used")
        try:
            facts, tensors = _read(path)
        except Damaged as error:
            damage = error
            continue
        _restore(path, tensors, modules, optimiser)
        return path, facts
    if damage is not None:
        raise damage
    return None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        tensors, metadata = load_tensors(path)
        return json.loads(metadata["state"]), tensors
    except OSError as error:
        raise unreadable(path, error) from error
    except (KeyError, ValueError) as error:
        raise Damaged(path, "it holds no state") from error


def _restore(
    path: Path, tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer
) -> None:
    try:
        for name, module in modules.items():
            prefix = f"{name}/"
            module.load_state_dict({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
    except RuntimeError as error:
        raise UserError(f"the state {path} is of another network ({str(error).splitlines()[0]}); start a new --output") from error
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            _, number, name = key.split("/")
            states.setdefault(int(number), {})[name] = value
    packed = optimiser.state_dict()
    optimiser.load_state_dict({"state": states, "param_groups": packed["param_groups"]})


def saved_states(folder: Path) -> list[Path]:
    """Return the paths of a run's states, oldest first."""
    return sorted((folder / FOLDER).glob("step-*.safetensors"))


def retain(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` states."""
    for path in saved_states(folder)[:-keep]:
        path.unlink(missing_ok=True)
