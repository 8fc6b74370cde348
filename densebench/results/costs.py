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


def cells(row: pd.Series) -> dict[str, str]:
    """Return the costs of a backbone's record as texts, by column of a table; a cell is blank where nothing is known.

    row: a row of `leaderboard.frame` with costs. minutes are those of the whole run: where all features were in the cache
    already, they do not include extraction, and images/s is blank.
    """
    return {
        "device": _text(row.device, "{}"),
        "minutes": _text(row.seconds, "{:.2f}", 1 / 60),
        "images/s": _text(row.images_per_second, "{:.4g}"),
        "search TFLOP/s": _text(row.tflop_per_second, "{:.3g}"),
        "host GiB": _text(row.host_memory_mb, "{:.1f}", 1 / 1024),
        "GPU GiB": _text(row.device_memory_mb, "{:.1f}", 1 / 1024),
        "kJ": _text(row.energy_joules, "{:.1f}", 1 / 1000),
    }


def count_unknown(scores: pd.DataFrame) -> None:
    """Say in one line of how many records in a frame of scores the costs are not known, if there are any."""
    known = scores.groupby("record").seconds.first().notna()
    if not known.all():
        left = f"{(~known).sum()} of {len(known)} records do not say what they cost"
        why = "an older densebench wrote them, or their last run scored only a part"
        notice(f"{left}: {why}; `densebench eval ... --rerun` measures it")


def filled(texts: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that are not blank in every row."""
    return texts.loc[:, (texts != "").any()]


def _text(value: Any, form: str, factor: float | None = None) -> str:
    if value is None or pd.isna(value):
        return ""
    return form.format(value if factor is None else value * factor)
