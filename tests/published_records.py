"""Published numbers and records made for tests of the two side by side."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from made_records import header, miou

from densebench import catalog, options
from densebench.datasets.catalog import load_dataset
from densebench.files.atomic import digest
from densebench.results.published.number_files import COLUMNS

ROW = {
    "paper": "neco", "table": "Table 99", "method": "DINO", "backbone": "ViT-S/16", "params_millions": "21",
    "protocol": "incontext-hummingbird", "dataset": "voc", "setting": "fraction=1/1", "metric": "miou",
}  # fmt: skip


def numbers(file: Path, *rows: Mapping[str, str], columns: Sequence[str] = COLUMNS) -> Path:
    """A file of published numbers: each row is `ROW` with some columns changed."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows({**ROW, **row} for row in rows)
    return file


@functools.cache
def preset(protocol: str, name: str, dataset: str) -> tuple[dict[str, Any], int]:
    """The settings of a preset on a data set, and the version of its protocol."""
    kind, opened = catalog.load("protocols", protocol, name), load_dataset(dataset)
    return options.build(kind, kind.presets[name], {}).resolve(opened).settings(opened), kind.version


def record(
    name: str = "DINO ViT-S/16", values: Mapping[tuple[tuple[str, Any], ...], float] | float = 48.0, *,
    protocol: str = "incontext", of: str = "neco", dataset: str = "voc", variant: str = "hungarian",
    ends: tuple[float, float] | None = None, changed: Mapping[str, Any] | None = None, about: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A record of a preset by its own settings, of values {axes: mIoU} or one value of all data.

    ends: the 95 % interval of each; 0.1 around it if not given. changed: settings that differ. about: facts of the data set.
    """
    settings, version = preset(protocol, of, dataset)
    values = values if isinstance(values, Mapping) else {(("fraction", 1), ("seed", None)): values}
    scores = []
    for point, value in values.items():
        low, high = ends or (value - 0.1, value + 0.1)
        scores.append(miou(value, variant, bootstrap=[low] * 50 + [high] * 50, **dict(point)).json())
    head = header(
        name,
        protocol=protocol,
        preset=of,
        settings={**settings, **(changed or {})},
        headline=("miou", variant),
        dataset=dataset,
        **more,
    )
    head["protocol"]["version"] = version
    head["dataset"] |= about or {}
    key = digest([head], 8)
    return {"schema": 2, "id": key, "group": key, "status": "complete", **head, "scores": scores, "run": {}}
