"""Backbones: `load_backbone("timm:vit_small_patch14_dinov2", weights=...)` and the kinds of spec that it takes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densebench.backbones.backbone import Backbone
    from densebench.backbones.checkpoint import newest_checkpoint, read_checkpoint, save_checkpoint
    from densebench.backbones.loading import attention_of, load_backbone

__all__ = [
    "LABELS",
    "Backbone",
    "attention_of",
    "load_backbone",
    "newest_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "sources",
    "without_labels",
]

LABELS = ("spec", "name", "params", "origin")
"""Keys that only name a backbone: two backbones that differ in nothing else have the same features."""

_HOMES = {
    "Backbone": "backbone",
    "attention_of": "loading",
    "load_backbone": "loading",
    "newest_checkpoint": "checkpoint",
    "read_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}


def sources() -> dict[str, str]:
    """The forms of a spec, each with what it means. Imports nothing."""
    return {
        "timm:NAME": "a timm model, with its pretrained weights or those of --weights FILE",
        "random:NAME": "the same architecture as initialised with --seed",
        "ckpt:DIR": "what `densebench pretrain` wrote",
        "hub:REPO:ENTRY": "a torch hub entry, or a local folder with a hubconf.py",
        "hf:REPO": "a transformers model (pip install 'densebench[hf]')",
        "pixels:STRIDE": "the pixels of each patch: the baseline without a model",
        "./file.py": "a Python file with a function load() that returns a module",
    }


def without_labels(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a backbone's identity that decides its features."""
    return {name: value for name, value in identity.items() if name not in LABELS}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
