"""Curves of the headline over an axis that was swept, such as the share of the training images or the number of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from densebench.results.ranking import interval

if TYPE_CHECKING:  # imported only to draw
    from matplotlib.axes import Axes

LABELS = {"fraction": "share of the training images", "K": "clusters K"}
"""What the axes are called that are drawn first."""


def several(shown: pd.DataFrame) -> list[str]:
    """Return the axes but the seed that have several values in these rows, those of LABELS first."""
    axes = dict.fromkeys([*LABELS, *(name for point in shown.point for name, _ in point)])
    return [axis for axis in axes if axis in shown and shown[axis].nunique() > 1]


def averages(shown: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Return the points of the curves of headline rows: a row for each `name` and `x`.

    x: the share of the training images for the axis fraction, else the value of the axis. mean, std: over seeds. low, high: the
    95 % interval of that mean over images, NaN where the scores have none.
    """
    placed = shown.assign(x=1 / shown[axis].astype(float) if axis == "fraction" else shown[axis].astype(float))
    rows = []
    for (name, x), each in placed.groupby(["name", "x"]):
        low, high = interval(each) or (float("nan"), float("nan"))
        rows.append({"name": name, "x": x, "mean": each.value.mean(), "std": each.value.std(), "low": low, "high": high})
    return pd.DataFrame(rows)


def tick(x: float, axis: str) -> str:
    """Return how a place on an axis is written: "1/8" for a share of the training images."""
    return f"1/{round(1 / x)}" if axis == "fraction" else f"{x:g}"


def draw(axes: Axes, curves: pd.DataFrame, names: Sequence[str], axis: str, *, bands: bool = False) -> list[Any]:
    """Draw the curves of `averages` with these names into Axes of matplotlib, and return their lines.

    A curve has bars of its standard deviation over seeds or, with `bands`, a band of its 95 % interval where there is one.
    """
    lines = []
    for name in names:
        curve = curves[curves.name == name].sort_values("x")
        banded = bands and bool(curve.low.notna().all())
        bars = None if banded else curve["std"].fillna(0)
        lines.append(axes.errorbar(curve.x, curve["mean"], yerr=bars, marker="o", markersize=4, capsize=2, label=name))
        if banded:
            axes.fill_between(curve.x, curve.low, curve.high, color=lines[-1].lines[0].get_color(), alpha=0.2, linewidth=0)
    if (curves.x > 0).all():
        axes.set_xscale("log")
    ticks = sorted(curves.x.unique())
    axes.set_xticks(ticks, [tick(x, axis) for x in ticks])
    axes.minorticks_off()
    axes.set_xlabel(LABELS.get(axis, axis))
    axes.grid(alpha=0.3)
    return lines
