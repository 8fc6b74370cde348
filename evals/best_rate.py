"""Scores of one point for several learning rates: the best is the headline, all are recorded, those that diverged too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from densebench.errors import UserError
from densebench.evaluator import Point
from densebench.records import Score

from .counting import Counts


def scores_of_rates(
    counts: Counts,
    number: int,
    losses: Mapping[float, np.ndarray],
    images: Sequence[str],
    names: Sequence[str],
    absent: Literal["skip", "zero"],
    point: Point,
    details: dict[str, Any],
) -> list[Score]:
    """The scores of problem `number`, whose learning rates stand side by side in `counts`; the headline comes last.

    losses: of each learning rate over time; one that is not finite has diverged, and its predictions are not looked at. Every
    other rate is scored as the variant `lr RATE`; the best by mIoU gives the scores of the point, with `learning_rates` among
    their details. Raises UserError where all diverged.
    """
    found: dict[float, list[Score]] = {}
    summary: dict[str, Any] = {}
    for place, (rate, curve) in enumerate(losses.items()):
        finite = np.isfinite(curve)
        if finite.all():
            subset = number * len(losses) + place
            found[rate] = counts.scores(images, subset, names, absent, point, details)
            summary[f"{rate:g}"] = found[rate][0].value
        else:
            summary[f"{rate:g}"] = f"diverged at {int(np.argmin(finite)) + 1} of {len(curve)}"
    if not found:
        raise UserError(f"every learning rate diverged ({', '.join(summary)}); give smaller --learning-rates")
    best = max(found, key=lambda rate: found[rate][0].value)
    more = {**details, "learning_rate": best, "learning_rates": summary, "chosen_on": "the scored split"}
    own = [replace(scores[0], variant=f"lr {rate:g}") for rate, scores in found.items()] if len(losses) > 1 else []
    miou, *others = (replace(score, details=more) for score in found[best])
    return [*own, *others, miou]
