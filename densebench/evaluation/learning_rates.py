"""Scores of one point for several learning rates: the best is the headline, all are recorded, those that diverged too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from densebench.errors import UserError
from densebench.results.score import Score

SCORED = "the scored split"
"""What details record as `chosen_on` where the split that is reported also made the choice."""


@dataclass(frozen=True)
class Course:
    """The losses of one learning rate over its training, and the name of each moment, such as "epoch 3"."""

    losses: np.ndarray
    moments: Sequence[str]

    @property
    def diverged(self) -> str | None:
        """The first moment at which the loss is not finite; None where there is none."""
        finite = np.isfinite(self.losses)
        return None if finite.all() else f"diverged at {self.moments[int(np.argmin(finite))]}"


def scores_of_rates(
    scores: Mapping[float, Callable[[], list[Score]]],
    courses: Mapping[float, Course],
    details: dict[str, Any],
    facts: Mapping[float, dict[str, Any]] | None = None,
) -> list[Score]:
    """Return the scores of a point; the headline (miou, identity) comes last.

    `scores[rate]()` returns the scores of a learning rate, miou by identity first. A rate that diverged is not scored. Where
    there are several, the mIoU of each is recorded as the variant `lr RATE`, and the best by mIoU gives the scores of the point;
    their details name that rate with its `facts`, and list the mIoU of all under `learning_rates`. Raises UserError where all
    diverged.
    """
    by_rate = {rate: scores[rate]() for rate, course in courses.items() if course.diverged is None}
    if not by_rate:
        raise UserError(f"every learning rate diverged ({', '.join(f'{rate:g}' for rate in courses)}); give smaller ones")
    best = max(by_rate, key=lambda rate: by_rate[rate][0].value)
    summary = {f"{rate:g}": by_rate[rate][0].value if rate in by_rate else course.diverged for rate, course in courses.items()}
    more = {**details, "learning_rate": best, "learning_rates": summary}
    more |= {"chosen_on": SCORED} if len(courses) > 1 else {}
    more |= facts[best] if facts else {}
    variants = [replace(first, variant=f"lr {rate:g}") for rate, (first, *_) in by_rate.items()] if len(courses) > 1 else []
    miou, *others = (replace(score, details=more) for score in by_rate[best])
    return [*variants, *others, miou]
