"""How sure a difference between backbones is: paired bootstrap intervals that stay honest for few images.

Every backbone predicts the same images, and every resample draws the same of them for all, so that what is hard about an image
cancels in a difference. Groups of images are drawn as one. Percentile intervals of few values are too short; they are widened
as by a t-distribution ("expanded percentiles", Hesterberg, What Teachers Should Know About the Bootstrap, 2015).

An interval covers the choice of images that were predicted. It does not cover that a model trained on other images would predict
them otherwise, but for what the images of a fold tell of that.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, t

LEVEL = 0.95
RESAMPLES = 2000
MOST_TIMES, MOST_MORE = 4, 500
"""How far the number of images is extrapolated at most: to four times as many, and by 500."""


def by_group(tally: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the tallies `[images 3 c]` of `segmentation.tallies` added up by group, [groups 3 c]."""
    result = np.zeros((int(group.max()) + 1, *tally.shape[1:]), tally.dtype)
    np.add.at(result, group, tally)
    return result


def mean_iou(tally: np.ndarray) -> np.ndarray:
    """Return the mean IoU in % of tallies `[*n 3 c]` over the classes that the truth shows; NaN where it shows none.

    A class that no drawn image shows is left out for every backbone, whatever each predicts: else a resample without a rare
    class would set those that name it somewhere wrongly a whole class behind the others.
    """
    agree, truth, prediction = np.moveaxis(np.asarray(tally, np.float64), -2, 0)
    shown = truth > 0
    ious = np.where(shown, agree / np.where(shown, truth + prediction - agree, 1), 0.0)
    return 100 * ious.sum(-1) / np.where(shown.any(-1), shown.sum(-1), np.nan)


def draws(groups: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return how often each resample with replacement draws each group, [resamples groups]."""
    return np.random.Generator(np.random.PCG64(seed)).multinomial(groups, np.full(groups, 1 / groups), size=resamples)


def replicates(tally: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the mean IoU in % of every resample of groups; tally: [groups 3 c], times: as `draws` returns them."""
    return mean_iou((times @ tally.reshape(len(tally), -1).astype(np.float64)).reshape(len(times), *tally.shape[1:]))


def widening(groups: int | np.ndarray) -> np.ndarray:
    """Return how many standard errors of the bootstrap an interval of so many groups, two or more, reaches to either side."""
    counts = np.asarray(groups, np.float64)
    return np.sqrt(counts / (counts - 1)) * t.ppf((1 + LEVEL) / 2, counts - 1)


def interval(values: np.ndarray, groups: int) -> tuple[float, float]:
    """Return the 95 % interval of replicates of a value of so many groups, by expanded percentiles."""
    outside = float(norm.cdf(-widening(groups)))
    low, high = np.nanquantile(values, [outside, 1 - outside])
    return float(low), float(high)


def most_groups(groups: int) -> int:
    """Return the largest number of groups that is extrapolated to: four times as many, and 500 more at most."""
    return min(MOST_TIMES * groups, groups + MOST_MORE)


def groups_to_separate(difference: float, low: float, high: float, groups: int) -> int | None:
    """Return how many groups it takes, in all, until the interval of a difference leaves out 0, if the difference stays as it is.

    low, high: its interval with `groups` of them. The half of the interval on the side of 0 shrinks with the root of the number
    of groups, and with its widening. None where `most_groups` would not do.
    """
    half = difference - low if difference > 0 else high - difference
    numbers = np.arange(groups, most_groups(groups) + 1)
    enough = half * np.sqrt(groups / numbers) * widening(numbers) / widening(groups) < abs(difference)
    return int(numbers[enough.argmax()]) if enough.any() else None
