"""DINO with smaller local views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from densebench.pretrain.dino import DINO


@dataclass(frozen=True)
class SmallCrops(DINO):
    """DINO whose local views are as small as two patches."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {**DINO.presets["tiny"], "local_size": 32}}
