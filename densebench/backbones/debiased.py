"""Features without position: directions that encode where a patch lies, projected out before any protocol reads the features."""

from __future__ import annotations

from densebench.backbones.backbone import Backbone
from densebench.errors import UserError


def debiased(backbone: Backbone, directions: int) -> Backbone:
    """Return a backbone whose features lack so many positional directions."""
    raise UserError(f"--debias {directions}: not built yet for {backbone.spec}")
