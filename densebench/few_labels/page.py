"""A recommendation as one self-contained page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from densebench.few_labels import drawings
from densebench.few_labels.choice import Choice, cost_cells, forecast_text
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
        title=f"Which backbone: {choice.title}",
        choice=choice,
        about=about(choice),
        colours=drawings.COLOURS,
        drawn=[_drawn(each, each is deciding and len(choice.comparisons) > 1) for each in choice.comparisons],
        against=_both(lambda width: drawings.against_speed(deciding, speeds, width)),
        costs=[{"backbone": name, "value": values[name], "cells": cost_cells(choice.costs[name])} for name in order],
        curves=_both(lambda width: drawings.learning_curves(choice.curves, order, choice.images, width)),
        sizes=sizes,
        labels=[_curve_row(choice, name, sizes) for name in order],
    )


def _both(draw: Callable[[int], Markup]) -> Markup:
    """Return a drawing for wide screens and one for narrow ones, of which a page shows one."""
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(draw(drawings.WIDE), draw(drawings.NARROW))


def about(choice: Choice) -> str:
    """Return in one sentence what was cross-validated."""
    grouped = f" in {choice.groups} groups" if choice.groups != choice.images else ""
    return (
        f"{choice.images} labelled images{grouped}, {choice.folds}-fold cross-validation, image side {choice.size} rounded down "
        "to a multiple of each backbone's stride; every image is predicted by a model that was not trained on it."
    )


def _drawn(comparison: Comparison, decides: bool) -> dict[str, Any]:
    """Return what the page shows of one protocol."""
    name = f"By {comparison.protocol} ({comparison.preset})"
    note = (
        "Points of mIoU behind the best, with the 95 % interval of the paired difference. Orange: it excludes 0, so the "
        "backbone is separably worse. Grey: it includes 0, so the two are not separable. Predicting the most frequent class "
        f"everywhere reaches {comparison.chance:.1f} mIoU."
    )
    rows = []
    for each in comparison.standings:
        ahead = each.behind
        more = "" if ahead is None else str(each.to_separate) if each.to_separate is not None else f"over {comparison.limit}"
        rows.append({
            "backbone": each.backbone, "value": f"{each.value:.1f}", "interval": f"{each.low:.1f} to {each.high:.1f}",
            "behind": "" if ahead is None else f"{ahead.value:.1f}",
            "of_difference": "" if ahead is None else f"{ahead.low:.1f} to {ahead.high:.1f}",
            "separate": "" if ahead is None else "separable" if ahead.separable else more,
        })  # fmt: skip
    heading = f"{name}, which decides" if decides else name
    return {"heading": heading, "note": note, "intervals": _both(lambda width: drawings.behind(comparison, width)), "rows": rows}


def _curve_row(choice: Choice, name: str, sizes: list[int]) -> dict[str, Any]:
    curve = choice.curves[name]
    values = dict(zip(curve.sizes, curve.values, strict=True))
    cells = [f"{values[size]:.1f}" if size in values else "" for size in sizes]
    return {"backbone": name, "cells": cells, "forecast": forecast_text(curve)}
