"""What the log of a run says, read from its file: each figure over the epochs, short enough for a chart."""

from __future__ import annotations

import csv
import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densebench.pages.charts import Series
from densebench.training.method import MOST_STEPS

if TYPE_CHECKING:
    import pandas

MOST_COLUMNS = 200
LONGEST = 300  # digits of a whole number that a float holds, less a few
MOST_PER_EPOCH = 1e15  # steps of an epoch; beyond, and below its inverse, an epoch is no number of a training


@dataclass(frozen=True)
class Figure:
    """One column of a log: its values, and the steps at which they were written; what is no number is NaN."""

    name: str
    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """The newest value."""
        return float(self.values[-1])

    def line(self, per_epoch: float, name: str, most: int = 300) -> Series:
        """Return the values over epochs for a chart; of more than `most`, means of so many stretches, with their range as a band.

        per_epoch: the steps of an epoch.
        """
        x, y = self.steps / per_epoch, self.values
        if len(x) <= most:
            return Series(name, x.tolist(), y.tolist())
        stretches = np.arange(len(x)) * most // len(x)
        return _means(name, stretches, x, y)

    def by_epoch(self, per_epoch: float, name: str, most: int = 300) -> Series:
        """Return the mean of each epoch, where it ends, for a chart, with the lowest and the highest value as a band.

        Of more than `most` epochs, as many as needed are taken together.
        """
        epochs = np.ceil(self.steps / per_epoch - 1e-9)
        size = max(1, math.ceil(float(epochs.max(initial=0)) / most))
        ends = np.ceil(epochs / size) * size
        return _means(name, ends, ends, self.values)


def _means(name: str, groups: np.ndarray, x: np.ndarray, y: np.ndarray) -> Series:
    """Return for each group, in order, its last x, and mean, lowest and highest y; what is not finite is left out."""
    finite = np.isfinite(y)
    groups, x, y = groups[finite], x[finite], y[finite]
    if not len(y):
        return Series(name, [], [])
    first = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    counts = np.diff([*first, len(y)])
    means = np.add.reduceat(y, first) / counts
    low, high = np.minimum.reduceat(y, first), np.maximum.reduceat(y, first)
    return Series(name, x[first + counts - 1].tolist(), means.tolist(), low.tolist(), high.tolist())


@dataclass(frozen=True)
class Logged:
    """The figures of a log by name, the last step that was logged, and the steps of an epoch (None: the log does not say)."""

    figures: dict[str, Figure]
    step: int = 0
    per_epoch: float | None = None


def read_logged(path: Path) -> Logged:
    """Return what a log says. Rows that are damaged or were not written to their end are left out, and cells that are no number.

    Raises OSError where the file cannot be read. A log of a million rows takes a second or two.
    """
    import pandas

    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].replace(b"\0", b"")
    try:
        with warnings.catch_warnings(action="ignore"):  # of rows that are longer than the header
            frame = pandas.read_csv(
                io.BytesIO(whole), index_col=False, on_bad_lines="skip", encoding_errors="replace", quoting=csv.QUOTE_NONE
            )
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, ValueError):
        return Logged({})
    frame = frame[frame.columns[:MOST_COLUMNS]].apply(_numbers)
    if "step" not in frame.columns:
        return Logged({})
    valid = frame["step"].between(0, MOST_STEPS)
    frame = frame if valid.all() else frame[valid]
    if not frame["step"].is_monotonic_increasing:
        frame = frame.sort_values("step", kind="stable")
    steps = frame["step"].to_numpy(float)
    figures = {}
    for name in frame.columns.drop("step"):
        values = frame[name].to_numpy(float)
        if (written := ~np.isnan(values)).any():
            figures[str(name)] = Figure(str(name), steps[written], values[written])
    return Logged(figures, int(steps[-1]) if len(steps) else 0, _per_epoch(figures.get("epoch")))


def _numbers(column: pandas.Series) -> pandas.Series:
    """Return the cells of a column as numbers; what is none, and a whole number that no float holds, is NaN."""
    from pandas import to_numeric

    try:
        return to_numeric(column, errors="coerce")
    except OverflowError:
        cells = column.astype(str)
        return to_numeric(cells.where(cells.str.len() <= LONGEST), errors="coerce")


def _per_epoch(epochs: Figure | None) -> float | None:
    """Return the number of steps of an epoch, by the newest row that has both."""
    if epochs is None:
        return None
    values, most = epochs.values, MOST_PER_EPOCH
    usable = np.flatnonzero((values > epochs.steps / most) & (values < epochs.steps * most) & (epochs.steps > 0))
    return float(epochs.steps[usable[-1]] / epochs.values[usable[-1]]) if len(usable) else None
