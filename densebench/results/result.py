"""What `densebench.evaluate` returns: the records that were made, as a frame, as a table, as one number, as a curve."""

from __future__ import annotations

import html
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from densebench.console import one_line
from densebench.errors import UserError, out_of_memory
from densebench.results.coverage import WARNING
from densebench.results.curves import averages, draw, several
from densebench.results.frame import deciding, rows_of
from densebench.results.leaderboard import table
from densebench.results.naming import labelled
from densebench.results.score import in_unit, sort_key
from densebench.results.summary import summary
from densebench.results.tables import Table, metric_name, notebook_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Failure:
    """A cell that failed: the backbone, the data set, the protocol, and the error."""

    backbone: str
    dataset: str
    protocol: str
    error: BaseException = field(repr=False)

    @property
    def is_users(self) -> bool:
        """Whether the user can mend it: a UserError, or a lack of memory."""
        return isinstance(self.error, UserError) or self._lacks_memory

    @property
    def problem(self) -> str:
        """The error in one line."""
        text = (
            one_line(str(self.error).strip()) if isinstance(self.error, UserError) else str(self.error).strip().partition("\n")[0]
        )
        if self._lacks_memory:
            return f"the memory does not suffice; give smaller sizes or fewer points ({one_line(text)[:200]})"
        return text if isinstance(self.error, UserError) else one_line(f"{type(self.error).__name__}: {text}")

    @property
    def _lacks_memory(self) -> bool:
        return isinstance(self.error, MemoryError | RuntimeError | ValueError) and out_of_memory(self.error)


@dataclass(frozen=True, repr=False)
class Result:
    """The records of one call of `evaluate`, and what failed in it. It prints as the command does, and is a table in a notebook.

    records: as they are on disk, in the order in which they were made; of a dry run, what they would be, without scores.
    failures: the cells that have no record, since they failed.
    """

    records: list[dict[str, Any]]
    failures: list[Failure] = field(default_factory=list)

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each score, with and without a limit: what was scored by what, the axes, the value, how sure it is.

        value, low and high (the 95 % interval over images, NaN without one) are in `unit`; `headline` marks what tables show;
        `limit` is the number of images that a split was cut to, if it was. An axis that was not swept is no column.
        """
        scores = self._scores
        if scores.empty:
            return pd.DataFrame(columns=[*NAMES, *VALUES])
        axes = dict.fromkeys(["fraction", "seed", *(name for point in scores.point for name, _ in point)])
        swept = [axis for axis in axes if axis in scores and scores[axis].notna().any() and axis not in (*NAMES, *VALUES)]
        left_out = {*axes, *BLOBS, "name", *NAMES, *VALUES}
        rest = [column for column in scores if column not in left_out]
        scores = scores.assign(backbone=scores["name"], low=scores.low.astype(float), high=scores.high.astype(float))
        return scores[[*NAMES, *swept, *VALUES, *rest]]

    @property
    def headline(self) -> pd.DataFrame:
        """The rows of `frame` that tables show."""
        frame = self.frame
        return frame[frame.headline.astype(bool)]

    @property
    def value(self) -> float:
        """The headline of the one backbone on the one data set, in its unit, mean over seeds, at the point that ranks go by.

        That is the point that the protocol names, such as PCK at 0.1, else the last column of the table. Raises UserError where
        there are several records, or none.
        """
        scores = self._scores
        if scores.empty:
            raise UserError("there is no score: nothing was scored in this dry run" if self.records else "there is no record")
        if scores.record.nunique() > 1:
            raise UserError(
                f"there are {scores.record.nunique()} records, so no single value; result.headline has a row for each"
            )
        shown = deciding(scores[scores.headline])
        last = max(shown.point, key=sort_key)
        return float(shown[shown.point.map(lambda point: point == last)].value.mean())

    @property
    def miou(self) -> float:
        """The `value`, where the headline is a mIoU. Raises UserError where it is another metric."""
        metrics = sorted({record["protocol"]["headline"]["metric"] for record in self.records})
        if metrics not in ([], ["miou"]):
            raise UserError(f"the headline is {', '.join(metrics)}, not miou; result.value is its value")
        return self.value

    @property
    def tables(self) -> list[Table]:
        """The tables of the leaderboard with these records alone, one for each data set."""
        scores = self._scores
        return [_table(group) for _, group in scores.groupby("group", sort=False) if group.headline.any()] if len(scores) else []

    @property
    def table(self) -> Table:
        """The one table. Raises UserError where there are several, or none."""
        tables = self.tables
        if len(tables) != 1:
            raise UserError(f"there are {len(tables)} tables, one for each data set; result.tables has them")
        return tables[0]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the headline over the axis that was swept, with its 95 % interval, a line for each backbone; return the Axes.

        ax: Axes of matplotlib to draw into; None: those of a new figure. The axis is the share of the training images where that
        was swept, else K, else the first one; the values of further axes make lines of their own. Where there is no interval,
        bars show the standard deviation over seeds. Raises UserError where each backbone has one point only.
        """
        from matplotlib import pyplot, rc_context

        scores = self._scores
        shown = scores[scores.headline] if len(scores) else scores
        axes = several(shown) if len(shown) else []
        if not axes:
            raise UserError("there is one point, and a curve takes several: sweep an axis, such as fractions=(1, 8, 64)")
        curves = averages(shown.assign(name=_line_names(shown, axes[1:])), axes[0])
        with rc_context({"text.parse_math": False}):  # names are drawn as they are: "$" does not begin a formula
            ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
            draw(ax, curves, list(curves.name.unique()), axes[0], bands=True)
            ax.set_ylabel(f"{metric_name(shown.iloc[0].metric)}{in_unit(shown.iloc[0].unit, shown.iloc[0].direction)}")
            ax.legend()
        return ax

    @property
    def _scores(self) -> pd.DataFrame:
        """The rows of the leaderboard for these records; a record that two names stand for is there once."""
        records = {record["id"]: record for record in self.records if "id" in record}
        rows = [{**row, "limit": record["dataset"]["limit"]} for record in records.values() for row in rows_of(record)]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        """Return what the command prints: the headline of every record at every point."""
        return "\n".join(map(summary, self.records))

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        if not self.records:
            return "<Result without records>"
        protocol = self.records[0]["protocol"]
        of = f"{protocol['name']}/{protocol['preset']}"
        if "id" not in self.records[0]:
            return f"<Result of a dry run of {of}: {len(self.records)} planned{failed}>"
        rows = self.headline
        if len(self.records) > 1 or rows.empty:
            return f"<Result of {of}: {len(self.records)} records{failed}>"
        row = rows.iloc[0]
        unit = f" {row.unit}" if row.unit else ""
        return f"<Result of {of}: {row.backbone} on {row.dataset}, {row.metric} {self.value:.{row.digits + 1}f}{unit}{failed}>"

    def _repr_html_(self) -> str:
        """Return the tables and failures as HTML, for notebooks; every text is escaped."""
        shown = notebook_html(self.tables) or f"<pre>{html.escape(str(self))}</pre>"
        lines = [f"{failure.backbone} on {failure.dataset} failed: {failure.problem}" for failure in self.failures]
        return shown + "".join(f"<p>{html.escape(line)}</p>" for line in lines)


NAMES = ("backbone", "dataset", "split", "protocol", "preset")
VALUES = (
    "metric", "variant", "value", "unit", "direction", "low", "high", "headline", "images", "limit", "record", "group",
)  # fmt: skip
BLOBS = ("bootstrap", "per_class", "point", "label", "started")


def _table(group: pd.DataFrame) -> Table:
    """Return the leaderboard's table of a group; a caption says where splits were cut by a limit."""
    shown, limit = table(group), group.iloc[0].limit
    if pd.isna(limit):
        return shown
    caption = shown.caption.removesuffix(f", {WARNING}")
    return replace(shown, caption=f"{caption}, at most {int(limit)} of each split, {WARNING}")


def _line_names(shown: pd.DataFrame, axes: list[str]) -> pd.Series:
    """Return the name of the line that each row belongs to: the backbone, and what several rows of it differ in."""
    names = labelled(shown).label
    if shown.dataset.nunique() > 1:
        names = names + " on " + shown.dataset
    for axis in axes:
        names = names + f", {axis} " + shown[axis].map(str)
    return names
