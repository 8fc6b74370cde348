"""K-means clusters of patches as maps, numbered so that the maps of several backbones compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from densebench.numerics.kmeans import kmeans
from densebench.numerics.lloyd import assign

RASTER = 48
"""Rows and columns of places at which maps of unlike grids are compared."""

Maps = list[Int[np.ndarray, "gh gw"]]


def clustered(grids: Sequence[Float[Tensor, "gh gw d"]], clusters: int, seed: int) -> Maps:
    """Return the cluster of every patch: K-means over the patches of all pictures, features at length one (so by cosine).

    Clusters are numbered by their size, the largest is 0. There are fewer where there are fewer patches that differ.
    """
    tokens = F.normalize(torch.cat([grid.flatten(0, 1) for grid in grids]), dim=1)
    count = min(clusters, len(torch.unique(tokens, dim=0)) if len(tokens) < 4 * clusters else len(tokens))
    centroids = kmeans(tokens, count, seed=seed, restarts=3, init="k-means++", per_cluster=None).centroids
    members = assign(tokens, centroids[None])[0][0].numpy()
    order = np.argsort(-np.bincount(members, minlength=count), kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    parts = np.split(rank[members], np.cumsum([grid.shape[0] * grid.shape[1] for grid in grids])[:-1])
    return [part.reshape(grid.shape[:2]) for part, grid in zip(parts, grids, strict=True)]


def renumbered(maps: Maps, reference: Maps) -> Maps:
    """Return maps with numbers that agree with those of the reference at as many places as possible (Hungarian matching).

    The maps are of the same pictures, at any grids. Every picture counts alike. Numbers stay one to one.
    """
    count = 1 + max(int(each.max()) for each in (*maps, *reference))
    overlap = np.zeros((count, count), dtype=np.int64)
    for mine, theirs in zip(maps, reference, strict=True):
        np.add.at(overlap, (rasterised(mine), rasterised(theirs)), 1)
    old, new = linear_sum_assignment(overlap, maximize=True)
    table = np.empty(count, dtype=np.int64)
    table[old] = new
    return [table[each] for each in maps]


def rasterised(grid: Int[np.ndarray, "gh gw"]) -> Int[np.ndarray, "n"]:
    """Return the values of a map at RASTER x RASTER places, evenly over its sides."""
    rows, columns = ((np.arange(RASTER) + 0.5) / RASTER * side for side in grid.shape)
    return grid[rows.astype(int)[:, None], columns.astype(int)[None]].ravel()


def painted(
    image: UInt8[np.ndarray, "h w 3"], regions: Int[np.ndarray, "h w"], colours: UInt8[np.ndarray, "k 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture with its regions in colours, half transparent, with lines between them; region 0 stays as it is."""
    result = np.where((regions > 0)[..., None], 0.45 * image + 0.55 * colours[regions], image)
    edges = np.zeros(regions.shape, dtype=bool)
    edges[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    edges[1:] |= regions[1:] != regions[:-1]
    result[edges] = 255
    return result.round().astype(np.uint8)
