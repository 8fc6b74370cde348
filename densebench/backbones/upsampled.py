"""Features on a finer grid: what a backbone gives for an image, upsampled before any protocol reads it."""

from __future__ import annotations

from densebench.backbones.backbone import Backbone
from densebench.errors import UserError


def upsampled(backbone: Backbone, upsample: str) -> Backbone:
    """Return a backbone whose grid of features is finer. upsample: NAME or NAME:FACTOR."""
    raise UserError(f"--upsample {upsample}: not built yet for {backbone.spec}")
