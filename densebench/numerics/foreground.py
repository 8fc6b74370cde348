"""Foreground without labels: by attention, and by clusters of patches that attention covers.

Ziegler and Asano, Leopart: Self-Supervised Learning of Object Parts for Semantic Segmentation, CVPR 2022. By attention: the
patches that hold most of what the class token looks at (NeCo uses these masks in table 5a). By clusters (section 3.3, CBFE):
attention masks are noisy image by image; the share of a cluster that they cover over a whole data set is not. So whole clusters
become foreground or background. Where to cut between the two is what the reference decides with labels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from densebench.errors import UserError

SIGMA, RADIUS = 0.6, 3  # of the Gaussian, in patches: 7 x 7


def foreground(attention: Float[Tensor, "b n"], grid: tuple[int, int], mass: float) -> Bool[Tensor, "b n"]:
    """Return the fewest patches that hold at least `mass` of the smoothed attention of an image."""
    smooth = _smooth(attention.unflatten(1, grid)[:, None]).flatten(1)
    ordered, order = (smooth / smooth.sum(dim=1, keepdim=True)).sort(dim=1, descending=True, stable=True)
    held_before = ordered.cumsum(dim=1) - ordered
    return torch.zeros_like(attention, dtype=torch.bool).scatter(1, order, held_before < mass)


def without_specks(mask: Bool[Tensor, "b h w"], size: int = 2) -> Bool[Tensor, "b h w"]:
    """Return the mask without connected parts (each patch has eight neighbours) of at most `size` patches."""
    kept = [_without_specks(image, size) for image in mask.cpu().numpy()]
    return torch.from_numpy(np.stack(kept)).to(mask.device)


def _without_specks(mask: np.ndarray, size: int) -> np.ndarray:
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    large = np.bincount(parts.ravel()) > size
    large[0] = False  # part 0 is what the mask leaves out
    return large[parts]


def _smooth(maps: Float[Tensor, "b 1 rows columns"]) -> Float[Tensor, "b 1 rows columns"]:
    steps = torch.arange(-RADIUS, RADIUS + 1, device=maps.device)
    taps = torch.exp(-0.5 * (steps / SIGMA) ** 2)
    taps = (taps / taps.sum()).to(maps.dtype)
    maps = F.conv2d(_extended(maps, (0, 0, RADIUS, RADIUS)), taps.view(1, 1, -1, 1))
    return F.conv2d(_extended(maps, (RADIUS, RADIUS, 0, 0)), taps.view(1, 1, 1, -1))


def _extended(maps: Tensor, by: tuple[int, int, int, int]) -> Tensor:
    """Return the maps mirrored at their borders, as the reference's blur does; maps too small for that repeat their border."""
    return F.pad(maps, by, mode="reflect" if min(maps.shape[2:]) > RADIUS else "replicate")


def precisions(clusters: Int[Tensor, "n h w"], mask: Bool[Tensor, "n h w"], k: int) -> Float[Tensor, "k"]:
    """Return, for each cluster, the share of its pixels that lie in the mask, as the mean over the images in which it occurs.

    NaN for a cluster that occurs nowhere.
    """
    return mean_shares(shares_inside(clusters, mask, k))


def shares_inside(clusters: Int[Tensor, "n h w"], mask: Bool[Tensor, "n h w"], k: int) -> Float[Tensor, "n k"]:
    """Return, for each image and cluster, the share of its pixels that lie in the mask; NaN where it does not occur."""
    shares = torch.full((len(clusters), k), torch.nan, dtype=torch.float64)
    for share, of_image, inside in zip(shares, clusters.flatten(1), mask.flatten(1), strict=True):
        count = torch.bincount(of_image, minlength=k).double().cpu()
        share[:] = torch.bincount(of_image[inside], minlength=k).cpu() / count
    return shares


def mean_shares(shares: Float[Tensor, "n k"]) -> Float[Tensor, "k"]:
    """Return the mean of the shares of each cluster over the images in which it occurs, added image by image."""
    added, images = torch.zeros(shares.shape[1], dtype=torch.float64), torch.zeros(shares.shape[1], dtype=torch.float64)
    for of_image in shares:
        added += of_image.nan_to_num(0.0)
        images += ~of_image.isnan()
    return added / images


def jaccard(mask: Bool[Tensor, "n h w"], truth: Bool[Tensor, "n h w"]) -> float:
    """Return intersection over union, as the mean over images; 0 for an image in which both are empty."""
    return float(jaccards(mask, truth).double().mean())


def jaccards(mask: Bool[Tensor, "n h w"], truth: Bool[Tensor, "n h w"]) -> Float[Tensor, "n"]:
    """Return the intersection over union of each image, 0 where both are empty, on the CPU."""
    both = (mask & truth).flatten(1).sum(1)
    either = (mask | truth).flatten(1).sum(1)
    return (both / either.clamp(min=1)).cpu()


def best_cut(
    precision: Float[Tensor, "k"],
    clusters: Int[Tensor, "n h w"],
    truth: Bool[Tensor, "n h w"],
    shares: tuple[float, float] = (0.55, 0.75),
    step: float = 0.05,
    joined: Callable[[Float[Tensor, "n"]], Float[Tensor, "all"]] = lambda of_images: of_images,
) -> float:
    """Return the least precision of a foreground cluster, chosen so that the foreground agrees best with `truth` (`jaccard`).

    The cuts that are tried leave a share of the clusters within `shares` (55 to 75 %) to the background. The precision at the
    best one is rounded to a multiple of `step`, as the reference does. `truth` comes from labels, or from attention where labels
    may not be used. joined: returns the values of all images from those of the given ones; they may be some of all.
    """
    known, order = precision.nan_to_num(0.0).sort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    ranks = rank.to(clusters.device)[clusters]
    best, chosen = -1.0, 0
    for start in range(int(shares[0] * len(known)), max(int(shares[1] * len(known)), int(shares[0] * len(known)) + 1)):
        agreement = float(joined(jaccards(ranks >= start, truth)).double().mean())
        if agreement >= best:  # of equals the last one, as a stable sort has it
            best, chosen = agreement, start
    steps = np.arange(0, 1, step)
    return round(float(steps[np.abs(steps - float(known[chosen])).argmin()]), 10)


def mask_of(clusters: Int[Tensor, "n h w"], precision: Float[Tensor, "k"], threshold: float) -> Bool[Tensor, "n h w"]:
    """Return the pixels of the clusters whose precision reaches the threshold. Raises UserError where none does."""
    foreground = precision.nan_to_num(0.0) >= threshold
    if not foreground.any():
        highest = float(precision.nan_to_num(0.0).max())
        raise UserError(f"--cut {threshold:g}: the greatest precision of a cluster is {highest:.3f}; give at most that")
    return foreground.to(clusters.device)[clusters]
