"""A recommendation as one self-contained page."""

from __future__ import annotations

from typing import Any

from densebench.few_labels import drawings
from densebench.few_labels.choice import Choice, cost_cells, promised
from densebench.few_labels.comparison import Comparison
from densebench.pages.page import render


def page(choice: Choice) -> str:
    """Return the page: the sentence, the standings by every protocol, costs, learning curves, and what the numbers are."""
    deciding = choice.comparisons[0]
    order = [each.backbone for each in deciding.standings]
    values = {each.backbone: f"{each.value:.1f}" for each in deciding.standings}
    speeds = {name: cost.images_per_second for name, cost in choice.costs.items()}
    sizes = sorted({size for curve in choice.curves.values() for size in curve.sizes})
    return render(
        "choice.html",
        room="densebench.few_labels",
        title=f"Which backbone for {choice.dataset}",
        choice=choice,
        about=about(choice),
        colours=drawings.COLOURS,
        drawn=[_drawn(comparison, number == 0) for number, comparison in enumerate(choice.comparisons)],
        against=drawings.against_speed(deciding, speeds),
        costs=[{"backbone": name, "value": values[name], "cells": cost_cells(choice.costs[name])} for name in order],
        memory="what torch held on the GPU" if "cpu" not in choice.device else "of the weights",
        curves=drawings.learning_curves(choice.curves, order, choice.images),
        sizes=sizes,
        labels=[_curve_row(choice, name, sizes) for name in order],
    )


def about(choice: Choice) -> str:
    """Return in one sentence what was cross-validated."""
    grouped = f" in {choice.groups} groups" if choice.groups != choice.images else ""
    return (
        f"{choice.images} labelled images{grouped}, {choice.folds} folds, images of {choice.size} rounded down to each backbone's "
        "stride; every image is predicted by a model that has not seen it."
    )


def _drawn(comparison: Comparison, decides: bool) -> dict[str, Any]:
    """Return what the page shows of one protocol."""
    name = f"By {comparison.protocol} ({comparison.preset})"
    note = (
        f"To predict the most frequent class everywhere reaches {comparison.chance:.1f}. Where an interval of the drawing holds 0, "
        "the two are not separable on these images."
    )
    rows = []
    for each in comparison.standings:
        ahead = each.behind
        more = "" if ahead is None else str(each.to_separate) if each.to_separate is not None else f"over {comparison.limit}"
        rows.append({
            "backbone": each.backbone, "value": f"{each.value:.1f}", "interval": f"{each.low:.1f} to {each.high:.1f}",
            "behind": "" if ahead is None else f"{ahead.value:.1f}",
            "of_difference": "" if ahead is None else f"{ahead.low:.1f} to {ahead.high:.1f}",
            "first": f"{100 * each.first:.0f} %", "separate": "" if ahead is None else "separable" if ahead.separable else more,
        })  # fmt: skip
    heading = f"{name}, which decides" if decides else name
    return {"heading": heading, "note": note, "intervals": drawings.behind(comparison), "rows": rows}


def _curve_row(choice: Choice, name: str, sizes: list[int]) -> dict[str, Any]:
    curve = choice.curves[name]
    values = dict(zip(curve.sizes, curve.values, strict=True))
    cells = [f"{values[size]:.1f}" if size in values else "" for size in sizes]
    return {"backbone": name, "cells": cells, "promised": promised(curve)}
