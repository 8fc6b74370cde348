"""How sure a score is: the percentile bootstrap over images or sequences (Efron 1979).

The draws depend on the number of images and the seed alone. So two backbones scored on the same images share them, and the
differences of their values, draw by draw, are a paired bootstrap.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.numerics.segmentation import Absent, iou, mean_iou

DRAWS = 100  # resamples computed at once


def bootstrap_mean_iou(
    tally: Int[Tensor, "n 3 c"], absent: Absent = "skip", resamples: int = 1000, seed: int = 0
) -> Float[Tensor, "resamples"]:
    """Return the mean IoU (0..1) of the whole set for `resamples` draws of its n images with replacement.

    tally: pixels that agree, of the truth and of the prediction, per image and class (`segmentation.tallies`). The draws depend
    on n and the seed alone (see the module).
    """
    weighted = _resampled(tally.double().flatten(1).cpu(), resamples, seed)
    return mean_iou(iou(weighted.view(resamples, *tally.shape[1:])), absent)


def bootstrap_mean(values: Float[Tensor, "n"], resamples: int = 1000, seed: int = 0) -> Float[Tensor, "resamples"]:
    """Return the mean of one value an image, such as whether it is right, for the same draws as `bootstrap_mean_iou`."""
    return _resampled(values.double().cpu()[:, None], resamples, seed)[:, 0] / len(values)


def bootstrap_sums(rows: Float[Tensor, "n m"], resamples: int = 1000, seed: int = 0) -> Float[Tensor, "resamples m"]:
    """Return the sums of the rows of `resamples` draws with replacement, for measures that are quotients of sums.

    The draws depend on n and the seed alone (see the module).
    """
    return _resampled(rows.double().cpu(), resamples, seed)


def _resampled(rows: Float[Tensor, "images m"], resamples: int, seed: int) -> Float[Tensor, "resamples m"]:
    """Return the sum of the rows of each draw, DRAWS at a time, so that memory does not grow as resamples x images."""
    images = len(rows)
    generator, shares = np.random.Generator(np.random.PCG64(seed)), np.full(images, 1 / images)
    parts = [min(DRAWS, resamples - start) for start in range(0, resamples, DRAWS)]
    return torch.cat([torch.from_numpy(generator.multinomial(images, shares, size=part)).double() @ rows for part in parts])


def interval(values: Float[Tensor, "n"], level: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds `level` of the values; values that are NaN (nothing to score) are left out."""
    kept = values[~values.isnan()].numpy()
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_mean_of_objects(
    sums: Float[np.ndarray, "sequences"], objects: Int[np.ndarray, "sequences"], resamples: int = 1000, seed: int = 0
) -> Float[np.ndarray, "resamples"]:
    """Return the mean over all objects for `resamples` draws of the sequences with replacement.

    sums: of the values of each sequence's objects; objects: how many it has. The draws depend on the number of sequences and the
    seed alone, so that two sets of scores of the same sequences are compared in pairs.
    """
    count = len(sums)
    generator = np.random.Generator(np.random.PCG64(seed))
    times = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    return (times @ sums) / (times @ objects)
