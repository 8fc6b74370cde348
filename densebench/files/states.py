"""Saved states: everything that a run needs to be resumed as if it had never stopped, in one file a state.

A state is a safetensors file with a checksum; its numbers (step, optimiser groups, ...) are JSON in the file's metadata. So a
state is written whole or not at all, and a damaged one is never resumed from. Randomness has no state to save: every draw is a
function of seed, step and image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from densebench.console import warn
from densebench.errors import UserError
from densebench.files.atomic import Damaged, unreadable
from densebench.files.tensors import load_tensors, save_tensors

FOLDER = "states"


def save_state(
    folder: Path, step: int, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, facts: dict[str, Any]
) -> Path:
    """Write `states/step-00000123.safetensors` atomically and return its path.

    Raises UserError where it cannot be written (a full disk, say); older states stay as they are.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    packed = optimiser.state_dict()
    for number, state in packed["state"].items():
        tensors |= {f"optimiser/{number}/{key}": torch.as_tensor(value) for key, value in state.items()}
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
