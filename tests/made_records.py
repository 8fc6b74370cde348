"""What every record says besides what a test is about: spread into the parts of a header."""

from __future__ import annotations

from typing import Any

BACKBONE: dict[str, Any] = {
    "arch": "vit", "dim": 4, "stride": 16, "layer": "last", "pos_embed": "none", "kind": "random",
    "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "code": "",
}  # fmt: skip
PROTOCOL: dict[str, Any] = {"code": ""}
DATASET: dict[str, Any] = {"code": "", "official_images": None, "official_train_images": None}
