"""Percentage of correct keypoints (PCK) of many pairs of images, averaged in each way that the literature has.

Yang and Ramanan, Articulated Human Detection with Flexible Mixtures of Parts, TPAMI 2013, named the measure. Papers that report
it average it differently, which changes it by several points: over all keypoints or over pairs ("per point", "per image"), and
either of these over all pairs, as the mean of classes, or as the mean of classes weighted by their numbers of pairs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.numerics.bootstrap import bootstrap_sums

AVERAGES = ("point", "image", "point-class", "image-class", "point-weighted")
"""Keypoints of all pairs; mean of pairs; mean over classes of either; mean of classes by keypoints, weighted by their pairs."""


def tallied(hits: Float[Tensor, "n"], points: Int[Tensor, "n"], classes: Int[Tensor, "n"], count: int) -> Float[Tensor, "n 4 c"]:
    """Return of each pair, in the column of its class: 1, the share of its keypoints that are right, their number, and how many.

    hits: keypoints that are right, or their expected number; points: keypoints of each pair, one at least; count: classes.
    """
    table = torch.zeros(len(hits), 4, count, dtype=torch.float64)
    of_pair = torch.stack([torch.ones_like(hits, dtype=torch.float64), hits / points, hits.double(), points.double()], dim=1)
    table[torch.arange(len(hits)), :, classes] = of_pair
    return table


def averaged(sums: Float[Tensor, "*many 4 c"], average: str) -> Float[Tensor, "*many"]:
    """Return the PCK, 0..1, from sums of rows of `tallied`. A class without a pair does not count; nan where no class has one.

    average: one of AVERAGES.
    """
    pairs, shares, hits, points = sums.unbind(-2)
    right, all_ = (shares, pairs) if average.startswith("image") else (hits, points)
    if average in ("point", "image"):
        return right.sum(-1) / all_.sum(-1)
    of_classes = right / all_
    if average.endswith("class"):
        return of_classes.nanmean(-1)
    return (of_classes * pairs).nansum(-1) / pairs.sum(-1)


def bootstrap_pck(table: Float[Tensor, "n 4 c"], resamples: int = 1000, seed: int = 0) -> dict[str, Float[Tensor, "resamples"]]:
    """Return each average of AVERAGES, 0..1, for draws of the n pairs with replacement: the same draws for equal n and seed."""
    sums = bootstrap_sums(table.flatten(1), resamples, seed).view(resamples, *table.shape[1:])
    return {average: averaged(sums, average) for average in AVERAGES}
