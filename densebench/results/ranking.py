"""Ranks that say no more than the data, counted as public arenas count them.

The rank of a backbone is 1 + the number of backbones that are separably better: the 95 % interval of the paired bootstrap
difference lies wholly on their side of 0. So backbones share a rank where equally many are separably better than each. That does
not mean that the two are inseparable: one may beat the other and be beaten by a third that does not beat the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from densebench.results.score import SIGNS, decode


def lead(first: np.ndarray | None, second: np.ndarray | None) -> int | None:
    """Return 1 where the first is separably greater than the second, -1 where separably less, 0 where the interval holds 0.

    The interval is the 95 % one of the paired bootstrap difference: the replicates of both come from the same draws of images, so
    their difference is taken draw by draw. None where there are no replicates that pair.
    """
    if first is None or second is None or len(first) != len(second):
        return None
    difference = np.asarray(first) - np.asarray(second)
    if np.isnan(difference).all():
        return None
    low, high = np.nanquantile(difference, [0.025, 0.975])
    return int(low > 0) - int(high < 0)


def ranks(values: Sequence[float], replicates: Sequence[np.ndarray | None], direction: str) -> list[int]:
    """Return the rank of each value: 1 + the number of others that are separably better, "higher" or "lower" being better.

    Where two have no replicates that pair, the plain values decide.
    """
    at = np.asarray(values, dtype=float)
    ahead = leads(replicates)
    gains = SIGNS[direction] * np.where(np.isnan(ahead), at[:, None] - at, ahead)
    return [1 + int(count) for count in (gains < 0).sum(axis=1)]


def leads(replicates: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return `lead` of each pair, float [n, n], NaN where two do not pair; one after the other it would take seconds."""
    result = np.full((len(replicates), len(replicates)), np.nan)
    sizes = [0 if each is None or np.isnan(each).any() else len(each) for each in replicates]
    for i, first in enumerate(replicates):
        alike = [j for j in range(i + 1, len(replicates)) if sizes[i] and sizes[i] == sizes[j]]
        if alike:
            differences = np.asarray(first) - np.stack([np.asarray(replicates[j]) for j in alike])
            low, high = np.quantile(differences, [0.025, 0.975], axis=1)
            result[i, alike] = (low > 0).astype(int) - (high < 0)
        for j in set(range(i + 1, len(replicates))).difference(alike):
            ahead = lead(first, replicates[j])
            result[i, j] = np.nan if ahead is None else ahead
        result[i + 1 :, i] = -result[i, i + 1 :]
    return result


def replicates_of(rows: pd.DataFrame) -> np.ndarray | None:
    """Return bootstrap values averaged over the scores of some rows, such as seeds; None where a score has none."""
    if rows.empty or not rows.bootstrap.all():
        return None
    return np.mean([decode(text) for text in rows.bootstrap], axis=0)


def bounds(replicates: np.ndarray | None) -> tuple[float, float] | None:
    """Return the 95 % interval of bootstrap values; None where there are none."""
    if replicates is None or np.isnan(replicates).all():
        return None
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    return float(low), float(high)


def interval(rows: pd.DataFrame) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over seeds of a record's rows at one point; None where a score has no bootstrap."""
    return bounds(replicates_of(rows))


def best_of(values: pd.DataFrame, direction: str | pd.Series, digits: int | pd.Series) -> pd.DataFrame:
    """Return which values are the best of their column, "higher" or "lower" being better; none where there is nothing to beat.

    A column of one value, or of values that are all alike as they are shown, such as 0.0 everywhere, has no best. direction,
    digits: of all columns, or by column.
    """
    gains = values * (SIGNS[direction] if isinstance(direction, str) else direction.map(SIGNS))
    decimals = digits if isinstance(digits, int) else digits.to_dict()
    differ = values.astype(float).round(decimals).nunique() > 1
    return gains.eq(gains.max()) & differ
