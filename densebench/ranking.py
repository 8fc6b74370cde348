"""Ranks that say no more than the data: backbones whose paired difference is not separable share one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def separable(first: np.ndarray | None, second: np.ndarray | None) -> bool | None:
    """Whether the 95 % interval of the paired bootstrap difference leaves out 0; None where there are no replicates.

    The replicates of both come from the same draws of images, so their difference is taken draw by draw.
    """
    if first is None or second is None or len(first) != len(second):
        return None
    difference = np.asarray(first) - np.asarray(second)
    if np.isnan(difference).all():
        return None
    low, high = np.nanquantile(difference, [0.025, 0.975])
    return bool(low > 0 or high < 0)


def ranks(values: Sequence[float], replicates: Sequence[np.ndarray | None]) -> list[int]:
    """Competition ranks (1, 1, 3, ...) of values, the greatest first.

    Walking down the list, a value shares the rank of the leader of the current rank if it is not separable from that leader;
    without replicates only equal values share.
    """
    order = sorted(range(len(values)), key=lambda i: -values[i])
    found = [0] * len(values)
    leader = None
    for place, i in enumerate(order, start=1):
        apart = True if leader is None else separable(replicates[leader], replicates[i])
        if apart is None:
            apart = leader is None or values[leader] != values[i]
        if apart:
            leader, rank = i, place
        found[i] = rank
    return found
