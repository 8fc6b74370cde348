"""Records as one tidy frame: a row for each score."""

from __future__ import annotations

from typing import Any

import pandas as pd

from densebench.backbones import without_labels
from densebench.console import one_line
from densebench.files.atomic import digest
from densebench.results import coverage
from densebench.results.baselines import is_baseline
from densebench.results.costs import costs_of
from densebench.results.provenance import is_rehearsal
from densebench.results.score import decides, point_of, without_seed

SIDES = ("image_size", "crop_size", "short_side")  # the settings that give the side of images, see `record_schema.Settings`


def frame(records: list[dict[str, Any]], *, costs: bool = False) -> pd.DataFrame:
    """Return one row for each score of the records without a limit that no rehearsal made: what was measured, of what.

    Axes are columns; `point` has them all but the seed, over which tables average. Every text is one line, whatever the record
    holds. costs: add the columns `costs.COLUMNS`, with the costs of the whole record in each of its rows.
    """
    whole = (record for record in records if record["dataset"]["limit"] is None and not is_rehearsal(record))
    return pd.DataFrame([row for record in whole for row in rows_of(record, costs=costs)])


def rows_of(record: dict[str, Any], *, costs: bool = False) -> list[dict[str, Any]]:
    """Return the rows of `frame` that a record makes, whether it has a limit or not."""
    backbone, protocol, dataset = record["backbone"], record["protocol"], record["dataset"]
    headline = protocol["headline"]
    shared = {
        "group": record["group"], "record": record["id"], "status": record["status"],
        "started": record["run"].get("started", ""),
        "protocol": protocol["name"], "preset": protocol["preset"], "version": protocol["version"],
        "image_size": _side(protocol["settings"]),
        "remark": remark_of(protocol["settings"]),
        "dataset": dataset["name"], "split": dataset["split"], "images": dataset["images"],
        "official_images": dataset.get("official_images"), "partial": coverage.partial(dataset),
        "name": backbone.get("name", backbone["spec"]), "label": None,  # for `naming.labelled`
        **{name: backbone.get(name) for name in ("spec", "arch", "dim", "stride", "layer", "pos_embed", "params")},
        **{name: backbone.get(name) for name in ("debias", "upsample")},
        "digest": backbone["digest"][:8], "identity": digest(without_labels(backbone), 8),
    }  # fmt: skip
    paid = costs_of(record) if costs else {}
    rows = []
    for score in record["scores"]:
        low, high = score.get("ci95") or (None, None)
        axes = dict(point_of(score))
        row = {
            **shared,
            **{name: score[name] for name in ("metric", "variant", "value", "unit", "direction", "digits")},
            "fraction": None, "seed": None, "low": low, "high": high,
            "headline": (score["metric"], score["variant"]) == (headline["metric"], headline["variant"]),
            "baseline": is_baseline(score, headline),
            "decides": decides(protocol, axes),
            "bootstrap": score.get("bootstrap", ""),
            "per_class": {one_line(name): value for name, value in (score.get("per_class") or {}).items()},
            "point": without_seed(tuple(axes.items())), "coverage": coverage.images(dataset),
            **paid,
        }  # fmt: skip
        # An axis with the name of a column, such as group, must not move the row into another table.
        row |= {name: value for name, value in axes.items() if name in ("fraction", "seed") or name not in row}
        rows.append({one_line(key): one_line(value) if isinstance(value, str) else value for key, value in row.items()})
    return rows


def _side(settings: dict[str, Any]) -> float | None:
    """Return the side in px of the images that a protocol sees; None where it is native, or not a number."""
    side = next((settings[name] for name in SIDES if name in settings), None)
    return side if isinstance(side, int | float) and not isinstance(side, bool) else None


def remark_of(settings: dict[str, Any]) -> str:
    """Return the remark of a caption: that runs were cut short, and what was chosen on the scored split or with labels."""
    remarks = []
    if not settings.get("comparable", True):
        remarks.append(f"{settings.get('iterations')} iterations (not comparable with published runs)")
    if isinstance(count := settings.get("validations"), int) and count > 1:
        remarks.append(f"the best of {count} validations on the scored split")
    if (chosen := settings.get("chosen_with_labels")) is not None:
        remarks.append(f"{', '.join(chosen) or 'nothing'} chosen with labels")
    return ", ".join(remarks)


def deciding(shown: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at points that ranks may go by; all rows where a protocol's named point was not asked for."""
    named = shown[shown.decides.astype(bool)]
    return shown if named.empty else named
