"""Quality against cost: the headline of each backbone over what it costs, as plots of a page."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from densebench.results.charts import Spot, scatter
from densebench.results.score import SIGNS, in_unit
from densebench.results.tables import Table, metric_name

INTERVAL = "95 % at "
"""How the heading of the column of intervals begins; the column that ranks go by follows."""
FEWEST = 2  # backbones of a plot
DEVICES = 2  # plots of devices at most: those with the most backbones
NAMED = 10  # backbones on the front that a caption names at most
WIDE = 5  # an axis whose ends differ by more than this factor goes by factors


def plots(table: Table, shown: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return for each plot its title, its SVG, and a caption that says what is seen.

    table: that of a group. shown: its headline scores with costs. Images per second compare on one device only, so each device
    has a plot of its own, where two backbones or more were measured on it: the two devices with the most of them. Parameters need
    no device: they make a plot where more backbones have them than stand in any other.
    """
    decisive = next(name.removeprefix(INTERVAL) for name in table.cells if name.startswith(INTERVAL))
    first = shown.iloc[0]
    rows = shown.drop_duplicates("record").set_index("record").loc[list(table.records)].reset_index()
    ends = table.intervals if table.intervals is not None else pd.DataFrame(index=rows.index, columns=["low", "high"])
    rows = rows.assign(backbone=table.cells.backbone, low=ends.low.astype(float), high=ends.high.astype(float))
    rows = rows.assign(value=table.values[decisive] if table.values is not None else float("nan")).dropna(subset="value")
    up = f"{metric_name(first.metric)} at {decisive}{in_unit(first.unit, first.direction)}"
    return [_plot(each, up, first.direction) for each in _axes(rows)]


def _axes(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the rows of each plot: `cost`, whether `less` of it is better, `along`, the name of the axis, and `remark`."""
    measured = rows[rows.images_per_second.astype(float) > 0]
    counts = measured.groupby("device").backbone.nunique().sort_values(ascending=False, kind="stable")
    devices = [device for device, count in counts.items() if count >= FEWEST][:DEVICES]
    for device in devices:
        of_device = measured[measured.device == device]
        remark = f"Images per second are those of the extraction of features on {device}, as each record's run measured them"
        yield of_device.assign(
            cost=of_device.images_per_second.astype(float), less=False, along=f"images per second on {device}", remark=remark
        )
    sized = rows[rows.params.astype(float) > 0]
    if len(sized) >= FEWEST and len(sized) > max((counts[device] for device in devices), default=0):
        remark = "Parameters stand in for cost, since they do not depend on the device"
        yield sized.assign(cost=sized.params.astype(float) / 1e6, less=True, along="parameters in millions", remark=remark)


def _plot(rows: pd.DataFrame, up: str, direction: str) -> tuple[str, str, str]:
    first = rows.iloc[0]
    front = on_front((-1 if first.less else 1) * rows.cost, SIGNS[direction] * rows.value)
    spots = [
        Spot(str(row.backbone), row.cost, row.value, row.low, row.high, is_front)
        for row, is_front in zip(rows.itertuples(), front, strict=True)
    ]
    factors = rows.cost.max() > WIDE * rows.cost.min()
    best = _some([spot.name for spot in sorted((spot for spot in spots if spot.front), key=lambda spot: spot.x)])
    seen = f"{up} over {first.along} of {len(spots)} backbones. On the Pareto front: {best}"
    plot, unnamed = scatter(spots, first.along, up, seen, factors=factors)
    caption = (
        f"{len(spots)} backbones; vertical lines are 95 % intervals. Filled and joined is the Pareto front, backbones that no "
        f"other one beats in quality and cost: {best}. {first.remark}{', and the axis is logarithmic' if factors else ''}."
    )
    if unnamed:
        caption += f" Names without room: {unnamed}; hover over a point to see its name."
    return f"Quality against {'parameters' if first.less else 'speed'}", plot, caption


def _some(names: list[str]) -> str:
    return "; ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def on_front(*gains: pd.Series) -> list[bool]:
    """Return for each row whether it is on the Pareto front: no other is at least as good in every gain and better in one."""
    points = list(zip(*gains, strict=True))
    return [
        not any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in points) for point in points
    ]
