"""What every record says besides what a test is about: spread into the parts of a header."""

from __future__ import annotations

from typing import Any

BACKBONE: dict[str, Any] = {
    "arch": "vit", "dim": 4, "stride": 16, "layer": "last", "pos_embed": "none", "kind": "random",
    "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "code": "",
}  # fmt: skip
PROTOCOL: dict[str, Any] = {"code": ""}
DATASET: dict[str, Any] = {"code": "", "official_images": None, "official_train_images": None}


def header(
    name: str, *, protocol: str = "incontext", preset: str = "hummingbird", settings: dict[str, Any] | None = None,
    headline: tuple[str, str] = ("miou", "identity"), dataset: str = "scenes", limit: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a record of a backbone of this name is of."""
    metric, variant = headline
    about = {"name": protocol, "preset": preset, "version": 1, "settings": settings or {}}
    return {
        "backbone": {**BACKBONE, "spec": name, "digest": name},
        "protocol": {**PROTOCOL, **about, "headline": {"metric": metric, "variant": variant}},
        "dataset": {**DATASET, "name": dataset, "split": "val", "images": 64, "digest": "abc", "limit": limit},
    }
