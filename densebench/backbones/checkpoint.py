"""Checkpoints that pretraining writes: `backbone.safetensors`, and the facts beside it in `checkpoint.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from torch import nn
from typing_extensions import TypedDict

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, Triple
from densebench.backbones.timm_loading import filled, timm_backbone
from densebench.backbones.timm_models import probe
from densebench.backbones.weights import read_weights
from densebench.errors import UserError
from densebench.files.atomic import write_text
from densebench.files.stored_json import Count, Flag, Number, ShapeError, Text, Word, check, load
from densebench.files.tensors import save_tensors

SCHEMA = 1
WEIGHTS, FACTS = "backbone.safetensors", "checkpoint.json"
Colour = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-10, le=10)]
Deviation = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=10)]
Three = Field(min_length=3, max_length=3)


@with_config(ConfigDict(extra="allow"))
class CheckpointInfo(TypedDict):
    """The keys of `checkpoint.json`; it may hold further ones."""

    schema: Count
    arch: Word
    method: NotRequired[Text]
    preset: NotRequired[Text]
    variant: NotRequired[Text]
    dataset: NotRequired[Word | None]
    image_size: NotRequired[Count]
    pos_embed: NotRequired[Text]
    mean: NotRequired[Annotated[list[Colour], Three]]
    std: NotRequired[Annotated[list[Deviation], Three]]
    step: NotRequired[Count]
    epoch: NotRequired[Number]
    finished: NotRequired[Flag]


SHAPE = TypeAdapter(CheckpointInfo)


def save_checkpoint(directory: Path, model: nn.Module, arch: str, **facts: Any) -> None:
    """Write a timm model's weights and facts (method, dataset, image_size, pos_embed, ...), atomically, the facts last.

    mean, std: the colour statistics of the images that it was trained on. Raises UserError where it cannot be written (a full
    disk, say).
    """
    save_tensors(directory / WEIGHTS, model.state_dict())
    write_text(directory / FACTS, json.dumps({"schema": SCHEMA, "arch": arch, **facts}, indent=1) + "\n")


def read_checkpoint(directory: Path) -> dict[str, Any]:
    """Return the facts of a checkpoint, a `CheckpointInfo`. Raises UserError where the folder holds none that can be read."""
    path = directory / FACTS
    try:
        facts: dict[str, Any] = load(path)
        schema = facts.get("schema") if isinstance(facts, dict) else None
        if type(schema) is int and schema > SCHEMA:
            raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}; upgrade densebench")
        check(facts, SHAPE)
    except ShapeError as error:
        what = f"ckpt:{directory} is not a checkpoint ({path} {error})"
        raise UserError(f"{what}; give the folder that pretraining wrote") from error
    return facts


def newest_checkpoint(runs: Path) -> Path | None:
    """Return the newest checkpoint under a folder, or None; checkpoints inside another one (best, epochs) do not count."""
    paths = [path for pattern in (FACTS, f"*/{FACTS}", f"*/*/{FACTS}", f"*/*/*/{FACTS}") for path in runs.glob(pattern)]
    paths = [path for path in paths if not any((folder / FACTS).exists() for folder in path.parent.parents)]
    return max(paths, key=lambda path: path.stat().st_mtime).parent if paths else None


def from_checkpoint(name: str, layer: str, pos_embed: str, mean: Triple | None = None, std: Triple | None = None) -> Backbone:
    """Return the backbone of a checkpoint's folder.

    mean, std: colour statistics; None for those that it was trained with. Checkpoints of earlier versions do not name them; they
    were trained with ImageNet's.
    """
    facts = read_checkpoint(Path(name))
    arch = facts["arch"]
    like = probe(arch)
    weights = read_weights(Path(name) / WEIGHTS, like.state_dict().keys())
    convention = facts.get("pos_embed", "antialias") if pos_embed == "auto" else pos_embed
    origin = str(facts.get("method", "densebench"))
    mean, std = mean or tuple(facts.get("mean", IMAGENET_MEAN)), std or tuple(facts.get("std", IMAGENET_STD))
    return timm_backbone(f"ckpt:{name}", arch, filled(arch, like, weights), layer, convention, origin, mean, std)
