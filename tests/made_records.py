"""Records made for tests: what every record says besides what a test is about, and whole records of given values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densebench.results import record as records
from densebench.results.score import Score

BACKBONE: dict[str, Any] = {
    "arch": "vit", "dim": 4, "stride": 16, "layer": "last", "pos_embed": "none", "kind": "random",
    "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "code": "",
}  # fmt: skip
PROTOCOL: dict[str, Any] = {"code": ""}
DATASET: dict[str, Any] = {"code": "", "official_images": None, "official_train_images": None}


def header(
    name: str, *, protocol: str = "incontext", preset: str = "hummingbird", settings: dict[str, Any] | None = None,
    headline: tuple[str, str] = ("miou", "identity"), dataset: str = "scenes", limit: int | None = None, **backbone: Any,
) -> dict[str, Any]:  # fmt: skip
    """What a record of a backbone of this name is of; more keywords are what it says of the backbone."""
    metric, variant = headline
    about = {"name": protocol, "preset": preset, "version": 1, "settings": settings or {}}
    return {
        "backbone": {**BACKBONE, "spec": name, "digest": name, **backbone},
        "protocol": {**PROTOCOL, **about, "headline": {"metric": metric, "variant": variant}},
        "dataset": {**DATASET, "name": dataset, "split": "val", "images": 64, "digest": "abc", "limit": limit},
    }


def miou(value: float, variant: str = "identity", *, bootstrap: Sequence[float] = (), **axes: Any) -> Score:
    """A score at a point of these axes."""
    return Score("miou", variant, value, axes=axes, bootstrap=tuple(bootstrap), direction="higher")


def write(
    results: Path, name: str, values: Mapping[tuple[int, int | None], float], *, status: str = "complete",
    replicates: Sequence[float] = (), **more: Any,
) -> records.Record:  # fmt: skip
    """A record of values {(fraction, seed): mIoU}; more keywords are those of `header`."""
    record = records.open_or_create(results, header(name, **more))
    for (fraction, seed), value in values.items():
        point = {"fraction": fraction, "seed": seed}
        record.add([miou(value + 1, "hungarian", **point), miou(value, bootstrap=replicates, **point)])
    record.finish(status, {})
    return record
