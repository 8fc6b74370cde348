"""What `densebench.choose` returns: the recommendation and all that it rests on, as tables, as JSON and as a page."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from densebench.console import one_line
from densebench.features.cost import Cost
from densebench.few_labels.comparison import Comparison, Difference, Standing
from densebench.few_labels.learning_curve import Curve
from densebench.results.result import Failure
from densebench.results.tables import Leaderboard, Table, notebook_html
from densebench.results.terminal import terminal_width, wrapped


@dataclass(frozen=True, repr=False)
class Choice:
    """A recommendation. It prints as the command does, and shows itself in a notebook.

    dataset, title, images, groups, folds: what was cross-validated; groups is the number of images where none belong together.
    size: the side of images, rounded down to a multiple of each backbone's stride. device: where speed was measured.
    comparisons: one for each protocol, the first decides. costs, curves: by backbone; curves by the protocol that decides.
    notes: what a reader must know. failures: the backbones that could not be scored.
    """

    dataset: str
    title: str
    images: int
    groups: int
    folds: int
    size: str
    device: str
    comparisons: tuple[Comparison, ...]
    costs: Mapping[str, Cost]
    curves: Mapping[str, Curve]
    sentence: str
    notes: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    command: str = ""

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each protocol and backbone, the best first: mIoU in % with its interval, points behind the best, cost."""
        rows = []
        for comparison in self.comparisons:
            for each in comparison.standings:
                behind = each.behind or Difference(0.0, 0.0, 0.0)
                values = {"protocol": comparison.protocol, "backbone": each.backbone, "miou": each.value, "low": each.low}
                values |= {"high": each.high, "behind": behind.value, "behind_low": behind.low}
                values |= {"behind_high": behind.high, "separable": behind.separable, "to_separate": each.to_separate}
                rows.append({**values, **asdict(self.costs[each.backbone])})
        return pd.DataFrame(rows)

    @property
    def tables(self) -> list[Table]:
        """The standings and costs, and the learning curve."""
        return [standings_table(self), curve_table(self)]

    def json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = {
            name: getattr(self, name) for name in ("dataset", "title", "images", "groups", "folds", "size", "device", "sentence")
        }
        return {
            **values,
            "comparisons": [_rounded(asdict(comparison)) for comparison in self.comparisons],
            "costs": {name: _rounded(asdict(cost)) for name, cost in self.costs.items()},
            "learning_curves": {name: _rounded(asdict(curve)) for name, curve in self.curves.items()},
            "failures": [{"backbone": failure.backbone, "problem": failure.problem} for failure in self.failures],
            "notes": list(self.notes),
            "command": self.command,
        }

    def page(self) -> str:
        """Return one self-contained HTML page."""
        from densebench.few_labels.page import page

        return page(self)

    def __str__(self) -> str:
        board = Leaderboard(pd.DataFrame(), self.tables)
        notes = "\n".join("\n  ".join(wrapped(f"- {note}", 2)) for note in self.notes)
        width = terminal_width()
        if width is None:
            shown = str(board)
        else:
            from rich.console import Console

            stream = io.StringIO()
            Console(file=stream, width=width, color_system=None, legacy_windows=False).print(board)
            shown = stream.getvalue().rstrip("\n")
        return "\n\n".join([shown, notes, "\n".join(wrapped(one_line(self.sentence)))])

    def __repr__(self) -> str:
        return f"<Choice: {one_line(self.sentence)}>"

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"{notebook_html(self.tables)}<ul>{notes}</ul><p><b>{html.escape(self.sentence)}</b></p>"


def standings_table(choice: Choice) -> Table:
    """Return the standings by every protocol beside the costs, in the order of the protocol that decides."""
    order = [each.backbone for each in choice.comparisons[0].standings]
    rows, best = [], []
    for name in order:
        cells, marks = {"backbone": one_line(name)}, {"backbone": False}
        for comparison in choice.comparisons:
            standing = next(each for each in comparison.standings if each.backbone == name)
            columns = _columns(comparison, standing)
            cells |= columns
            marks |= {column: index == 0 and standing.behind is None for index, column in enumerate(columns)}
        costs = cost_cells(choice.costs[name])
        rows.append({**cells, **costs})
        best.append({**marks, **dict.fromkeys(costs, False)})
    grouping = f"{choice.groups} groups of " if choice.groups != choice.images else ""
    caption = (
        f"{choice.title}: {grouping}{choice.images} labelled images, {choice.folds} folds, {choice.size}; mIoU in %, [95 %]; "
        f"images/s on {choice.device}"
    )
    return Table(one_line(caption), pd.DataFrame(rows), pd.DataFrame(best))


def _columns(comparison: Comparison, standing: Standing) -> dict[str, str]:
    """Return the cells of a backbone by one protocol."""
    name, behind = comparison.protocol, standing.behind
    cells = {name: f"{standing.value:.1f} [{standing.low:.1f}, {standing.high:.1f}]"}
    cells[f"{name}: behind the best"] = "" if behind is None else f"{behind.value:.1f} [{behind.low:.1f}, {behind.high:.1f}]"
    return cells


def cost_cells(cost: Cost) -> dict[str, str]:
    """Return what a backbone costs as texts, by column."""
    return {
        "images/s": f"{cost.images_per_second:.3g}" if cost.images_per_second < 1000 else f"{cost.images_per_second:,.0f}",
        "GFLOP": f"{cost.gflop:.3g}" if cost.gflop else "",
        "params, M": f"{cost.params / 1e6:.3g}",
        "memory, MiB": f"{cost.memory_mb:.3g}",
    }


def curve_table(choice: Choice) -> Table:
    """Return the learning curves, one row a backbone, with what more labels would bring."""
    order = [each.backbone for each in choice.comparisons[0].standings]
    sizes = sorted({size for curve in choice.curves.values() for size in curve.sizes})
    told = sorted({each.more for curve in choice.curves.values() for each in curve.forecasts})
    rows = []
    for name in order:
        curve = choice.curves[name]
        values = dict(zip(curve.sizes, curve.values, strict=True))
        cells = {"backbone": one_line(name), **{f"{size}": f"{values[size]:.1f}" if size in values else "" for size in sizes}}
        gains = {each.more: f"{each.gain:+.1f} [{each.low:+.1f}, {each.high:+.1f}]" for each in curve.forecasts}
        rows.append({**cells, **{f"{more} more labels": gains.get(more, "?") for more in told}})
    frame = pd.DataFrame(rows)
    blank = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    caption = f"{choice.comparisons[0].protocol}: mIoU in % by the number of training images, and what more labels would bring"
    unknown = [name for name in order if not choice.curves[name].forecasts]
    notes = tuple(f"{one_line(name)}: what more labels would bring is {forecast_text(choice.curves[name])}" for name in unknown)
    return Table(caption, frame, blank, notes=notes)


def forecast_text(curve: Curve) -> str:
    """Return in words what more labels would bring."""
    if not curve.forecasts:
        return f"unknown: {curve.why}"
    return "; ".join(f"{each.more} more: {each.gain:+.1f} [{each.low:+.1f}, {each.high:+.1f}]" for each in curve.forecasts)


def _rounded(value: Any) -> Any:
    """Return JSON values with numbers rounded to four decimals, and None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 4) if value == value and abs(value) != float("inf") else None
    return value
