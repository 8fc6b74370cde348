"""The costs of records as columns of tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from densebench.console import notice
from densebench.results.score import point_of

COLUMNS = ("device", "seconds", "images_per_second", "tflop_per_second", "host_memory_mb", "device_memory_mb", "energy_joules")
"""The columns of the frame of scores that hold costs."""


def costs_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record's values of COLUMNS; None for each that it does not hold.

    All are None where the record's last run scored only a part of its points, since its costs are not those of the record.
    """
    run, points = record["run"], _points(record)
    if run.get("scored_points") != points:
        return dict.fromkeys(COLUMNS)
    return {
        "device": run.get("device"),
        "seconds": run.get("seconds", {}).get("total"),
        "images_per_second": run.get("images_per_second", {}).get("features"),
        "tflop_per_second": run.get("tflop_per_second", {}).get("search"),
        **{name: run.get(name) for name in COLUMNS[4:]},
    }


def _points(record: dict[str, Any]) -> int:
    return len({point_of(score) for score in record["scores"]})


HEADINGS = {
    "device": ("device", None, ""),
    "minutes": ("seconds", 1 / 60, ".2f"),
    "images/s": ("images_per_second", 1.0, ".4g"),
    "search TFLOP/s": ("tflop_per_second", 1.0, ".3g"),
    "host GiB": ("host_memory_mb", 1 / 1024, ".1f"),
    "GPU GiB": ("device_memory_mb", 1 / 1024, ".1f"),
    "kJ": ("energy_joules", 1 / 1000, ".1f"),
}
"""The columns of costs in tables: for each, its column in the frame of scores, the factor, and how a number is written."""


def columns(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the costs of records as texts, and the numbers behind them: the columns of HEADINGS that are not blank in every row.

    rows: one row a record of `leaderboard.frame` with costs. A cell is blank where nothing is known. minutes are those of the
    whole run: where all features were in the cache already, they do not include extraction, and images/s is blank.
    """
    texts, numbers = pd.DataFrame(index=rows.index), pd.DataFrame(index=rows.index)
    for heading, (name, factor, form) in HEADINGS.items():
        known = rows[name].notna()
        if not known.any():
            continue
        if factor is None:
            texts[heading] = rows[name].where(known, "").astype(str)
        else:
            numbers[heading] = rows[name].astype(float) * factor
            texts[heading] = ["" if pd.isna(value) else f"{value:{form}}" for value in numbers[heading]]
    return texts, numbers


def count_unknown(scores: pd.DataFrame) -> None:
    """Say in one line of how many records in a frame of scores the costs are not known, if there are any."""
    known = scores.groupby("record").seconds.first().notna()
    if not known.all():
        left = f"{(~known).sum()} of {len(known)} records do not say what they cost"
        why = "an older densebench wrote them, or their last run scored only a part"
        notice(f"{left}: {why}; `densebench eval ... --rerun` measures it")
