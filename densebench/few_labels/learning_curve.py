"""What more labels would bring: a power law fitted to the scores with fewer training images, extrapolated with a band.

Learning curves are well described by a power law, value = limit - loss * images ** -power, in many fields (Hestness et al. 2017;
Viering and Loog, The Shape of Learning Curves: a Review, 2022). Its power is sought between 0.05, which is nearly a logarithm,
and 1; its limit is at most 100 %. On 120 images of CamVid such laws through 5, 11 and 23 training images came within 0.6 of what
47 reached and within 1.1 of what 95 did, rather below than above. The band holds what the law gives for 95 % of the resamples of
images, each with training sets drawn anew among the repetitions and with what the law misses. The law is continued to four times
the training images of a fold at most, and not at all where the scores do not rise or lie on no smooth curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from densebench.few_labels.paired import percentiles

POWERS = np.linspace(0.05, 1.0, 20)
SHARES = (8, 4, 2, 1)
"""One over the shares of the training images that are tried."""
LEAST_SIZES = 3
"""Fewest numbers of training images through which a law is laid."""
TIMES = (2, 3)
"""How many times as many labelled images the law is continued to, as far as that is not beyond FURTHEST."""
FURTHEST = 4
"""How many times the largest number of training images that was tried."""
BANDS = 200  # resamples through which a law is laid
MISSED, LEAST_MISS = 2.0, 0.5
"""By how much a law may miss a score: standard errors, or points of mIoU where that is more."""


@dataclass(frozen=True)
class Law:
    """value = limit - loss * images ** -power."""

    limit: float
    loss: float
    power: float

    def at(self, images: float | np.ndarray) -> np.ndarray:
        """Return the value with so many training images."""
        return self.limit - self.loss * np.asarray(images, np.float64) ** -self.power


@dataclass(frozen=True)
class Forecast:
    """What more labels would bring: `more` labelled images raise mIoU by `gain` points, with a 95 % band from low to high."""

    more: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A learning curve: numbers of training images, the mean IoU in % with each and its interval, and what more would bring.

    law, forecasts: None and empty where no forecast is possible; `why` says why.
    """

    sizes: tuple[int, ...]
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    law: Law | None = None
    forecasts: tuple[Forecast, ...] = ()
    why: str = ""


def fitted(sizes: np.ndarray, values: np.ndarray) -> Law:
    """Return the law with the least squared errors: its power from POWERS, limit and loss in closed form, the loss at least 0.

    values in %: powers whose limit would be above 100 are passed over, but for the last one.
    """
    best, least = Law(float(values.mean()), 0.0, 1.0), np.inf
    for power in POWERS:
        x = np.asarray(sizes, np.float64) ** -power
        apart = x - x.mean()
        loss = max(0.0, -float((apart * values).sum() / (apart**2).sum()))
        law = Law(float(values.mean() + loss * x.mean()), loss, float(power))
        error = float(((law.at(sizes) - values) ** 2).sum())
        if law.limit > 100 and power != POWERS[-1]:
            continue
        if error < least - 1e-12:
            best, least = law, error
    return best


def of_repetitions(replicates: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the replicates `[resamples]` of a mean over repetitions with other training sets, these drawn with replacement too.

    replicates: `[repetitions resamples]`, the same resamples of images in each.
    """
    picked = np.random.Generator(np.random.PCG64(seed)).integers(len(replicates), size=replicates.shape)
    return np.take_along_axis(replicates, picked, axis=0).mean(axis=0)


def continued(
    sizes: Sequence[int], values: Sequence[float], replicates: Sequence[np.ndarray], groups: int, labelled: int
) -> Curve:
    """Return the curve, with what twice and three times as many labels would bring where that can be told.

    sizes: numbers of training images, ascending; values: the mean IoU in % with each; replicates: of each, the values of the same
    resamples of `groups` groups of images; labelled: how many labelled images there are, of which a model for use has all.
    """
    at, scores = np.array(sizes), np.array(values)
    intervals = tuple(percentiles(each, groups) for each in replicates)
    law = fitted(at, scores) if len(sizes) >= LEAST_SIZES else None
    if law is None or (why := _problem(at, scores, law, replicates, groups)):
        why = why if law is not None else f"{sizes[-1]} training images allow only {len(sizes)} sizes, too few to fit a power law"
        return Curve(tuple(sizes), tuple(values), intervals, why=why)
    rows = np.stack(replicates, axis=1)[:BANDS]
    rows = rows + _misses(law.at(at) - scores, len(rows))
    laws = [fitted(at, row) for row in rows if np.isfinite(row).all()]
    forecasts = []
    for images in (times * labelled for times in TIMES if times * labelled <= FURTHEST * sizes[-1]):
        gain = float(law.at(images) - law.at(labelled))
        low, high = percentiles(np.array([float(each.at(images) - each.at(labelled)) for each in laws]), groups)
        forecasts.append(Forecast(images - labelled, gain, min(low, gain), max(high, gain)))
    why = (
        ""
        if forecasts
        else f"twice as many labels would be over {FURTHEST} times the {sizes[-1]} training images, too far to extrapolate"
    )
    return Curve(tuple(sizes), tuple(values), intervals, law, tuple(forecasts), why)


def _misses(residuals: np.ndarray, resamples: int) -> np.ndarray:
    """Return what to add to each resample for what the law misses: its residuals with random signs.

    A score is one of some training sets, and others of that size would give another; the residuals tell by how much.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    size = (resamples, len(residuals))
    freedom = len(residuals) / max(1, len(residuals) - 2)  # a law takes two degrees of freedom, and a part of a third
    return np.sqrt(freedom) * rng.choice(residuals, size) * rng.choice([-1.0, 1.0], size)


def _problem(sizes: np.ndarray, values: np.ndarray, law: Law, replicates: Sequence[np.ndarray], groups: int) -> str:
    """Return why a law cannot be continued; "" where it can."""
    if percentiles(replicates[-1] - replicates[0], groups)[0] <= 0:
        return f"the score with {sizes[-1]} training images is not separably higher than with {sizes[0]}"
    for fewer, more, before, after in zip(sizes, sizes[1:], replicates, replicates[1:], strict=False):
        if percentiles(before - after, groups)[0] > 0:
            return f"the score falls from {fewer} to {more} training images"
    noise = float(np.median([np.nanstd(each - replicates[-1]) for each in replicates[:-1]]))
    missed = float(np.abs(law.at(sizes) - values).max())
    return "no power law fits the scores" if missed > max(MISSED * noise, LEAST_MISS) else ""
