"""Checkpoints of our own: a folder with `backbone.safetensors` and the facts beside it in `checkpoint.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from densebench.errors import UserError
from densebench.files import write_text
from densebench.tensors import save_tensors

SCHEMA = 1
WEIGHTS, FACTS = "backbone.safetensors", "checkpoint.json"


def save_checkpoint(directory: Path, model: nn.Module, arch: str, **facts: Any) -> None:
    """Write a timm model's weights and facts (method, dataset, image_size, pos_embed, ...), atomically, the facts last.

    Raises UserError where they cannot be written (a full disk, say).
    """
    save_tensors(directory / WEIGHTS, model.state_dict())
    write_text(directory / FACTS, json.dumps({"schema": SCHEMA, "arch": arch, **facts}, indent=1) + "\n")


def read_checkpoint(directory: Path) -> dict[str, Any]:
    """The facts of a checkpoint. Raises UserError where the folder holds none."""
    path = directory / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"ckpt:{directory} is not a checkpoint ({path}: {error}); give the folder that pretraining wrote"
        ) from error
    if facts.get("schema", 0) > SCHEMA:
        raise UserError(f"{path} has schema {facts['schema']}, this version reads {SCHEMA}; upgrade densebench")
    return facts


def newest_checkpoint(runs: Path) -> Path | None:
    """The checkpoint under a folder that was written last, or None; those inside another one (best, epochs) are passed over."""
    found = [path for pattern in (FACTS, f"*/{FACTS}", f"*/*/{FACTS}", f"*/*/*/{FACTS}") for path in runs.glob(pattern)]
    found = [path for path in found if not any((folder / FACTS).exists() for folder in path.parent.parents)]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None
