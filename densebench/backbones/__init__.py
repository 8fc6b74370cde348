"""Backbones: one file a source of models, over `backbone.py`; `loading.load_backbone` turns a spec into a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LABELS = ("spec", "name", "params", "origin", "recognised", "upsample")
"""Keys that only name a backbone: two backbones that differ in nothing else have the same features. `upsampler` decides."""


def without_labels(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a backbone's identity that decides its features."""
    return {name: value for name, value in identity.items() if name not in LABELS}
