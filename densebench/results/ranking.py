"""Ranks that say no more than the data, counted as public arenas count them.

The rank of a backbone is 1 + the number of backbones that are separably better: the 95 % interval of the paired bootstrap
difference lies wholly on their side of 0. So backbones share a rank where equally many are separably better than each. That does
not mean that the two are inseparable: one may beat the other and be beaten by a third that does not beat the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from densebench.results.score import SIGNS


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
    result = [1] * len(values)
    for i, j in itertools.combinations(range(len(values)), 2):
        ahead = lead(replicates[i], replicates[j])
        gain = SIGNS[direction] * (values[i] - values[j] if ahead is None else ahead)
        result[i] += gain < 0
        result[j] += gain > 0
    return result
