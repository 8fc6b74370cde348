"""Scores of one point for several learning rates: the best is the headline, all are recorded, those that diverged too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from densebench.errors import UserError
from densebench.results.score import Score

SCORED = "the scored split"
"""What the details give as the split of a choice, where the choice was made on the reported split."""


@dataclass(frozen=True)
class Course:
    """The losses of a learning rate at some moments of its training, and what the moments are called."""

    losses: np.ndarray
    moments: Sequence[str]

    @property
    def diverged(self) -> str | None:
        """The first moment at which the loss is not finite."""
        finite = np.isfinite(self.losses)
        return None if finite.all() else f"diverged at {self.moments[int(np.argmin(finite))]}"


def scores_of_rates(
    scores: Mapping[float, Callable[[], list[Score]]],
    courses: Mapping[float, Course],
    details: dict[str, Any],
    facts: Mapping[float, dict[str, Any]] | None = None,
) -> list[Score]:
    """The scores of a point; the headline (miou, identity) comes last.

    `scores` makes those of each learning rate, miou by identity first. A rate that diverged is not scored. Where there are
    several, each is recorded as the variant `lr RATE`; the best by mIoU gives the scores of the point, whose details name it
    with its `facts`, and say in `learning_rates` what became of all. Raises UserError where all diverged.
    """
    found = {rate: scores[rate]() for rate, course in courses.items() if course.diverged is None}
    if not found:
        raise UserError(f"every learning rate diverged ({', '.join(f'{rate:g}' for rate in courses)}); give smaller ones")
    best = max(found, key=lambda rate: found[rate][0].value)
    summary = {f"{rate:g}": found[rate][0].value if rate in found else course.diverged for rate, course in courses.items()}
    more = {**details, "learning_rate": best, "learning_rates": summary}
    more |= {"chosen_on": SCORED} if len(courses) > 1 else {}
    more |= facts[best] if facts else {}
    own = [replace(one[0], variant=f"lr {rate:g}") for rate, one in found.items()] if len(courses) > 1 else []
    miou, *others = (replace(score, details=more) for score in found[best])
    return [*own, *others, miou]
