"""DINO with smaller local views.

Caron et al., Emerging properties in self-supervised vision transformers, ICCV 2021, whose local views are 96 px. Changed here:
their size, and how often they are blurred. Numbers to reach: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from densebench.options import setting
from densebench.pretrain.dino import DINO
from densebench.training.augmentation import ViewSpec


@dataclass(frozen=True)
class Mine(DINO):
    """DINO's hyper-parameters and one more: a setting changes what is learned, a runtime option must not."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {**DINO.presets["tiny"], "local_size": 32}}

    local_blur: float = setting(0.5, "probability that a local view is blurred", minimum=0, maximum=1)

    def views(self) -> tuple[ViewSpec, ...]:
        """Return how the views of an image are drawn, in the order in which the objective gets them: global ones first."""
        first, second, *local = super().views()
        return first, second, *[replace(view, blur=self.local_blur) for view in local]
