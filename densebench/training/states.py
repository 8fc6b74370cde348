"""Saved states: everything that a run needs to go on as if it had never stopped, in one file a state.

A state is a safetensors file; its numbers (step, optimiser groups, ...) are JSON in the file's metadata. So a state is there
whole or not at all. Randomness has no state to save: every draw is a function of seed, step and image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from densebench.errors import UserError
from densebench.files import replacing

FOLDER = "states"


def save_state(
    folder: Path, step: int, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, facts: dict[str, Any]
) -> Path:
    """Write `states/step-00000123.safetensors` atomically.

    Raises UserError where it cannot be written (a full disk, say); older states stay as they are.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    packed = optimiser.state_dict()
    for number, state in packed["state"].items():
        tensors |= {f"optimiser/{number}/{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    path = folder / FOLDER / f"step-{step:08}.safetensors"
    with replacing(path) as part:
        try:
            save_file(tensors, part, metadata={"state": json.dumps({"step": step, **facts})})
        except SafetensorError as error:
            raise OSError(getattr(error, "errno", None), str(error)) from error
    return path


def load_state(path: Path, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a state back into the modules and the optimiser; returns its facts. Raises UserError for a file that does not fit."""
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the state {path} cannot be read ({error}); remove it, and --resume takes the one before") from error
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
    return facts


def saved_states(folder: Path) -> list[Path]:
    """The states of a run, oldest first."""
    return sorted((folder / FOLDER).glob("step-*.safetensors"))


def retain(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` states."""
    for path in saved_states(folder)[:-keep]:
        path.unlink(missing_ok=True)
