"""Foreground by attention: the patches that hold most of what the class token looks at.

Source: Ziegler and Asano, Self-Supervised Learning of Object Parts for Semantic Segmentation (Leopart), CVPR 2022, whose masks
NeCo uses in table 5a.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

SIGMA, REACH = 0.6, 3  # of the Gaussian, in patches: 7 x 7


def foreground(attention: Float[Tensor, "b n"], grid: tuple[int, int], mass: float) -> Bool[Tensor, "b n"]:
    """The fewest patches that hold at least `mass` of the smoothed attention of an image."""
    smooth = _smooth(attention.unflatten(1, grid)[:, None]).flatten(1)
    ordered, order = (smooth / smooth.sum(dim=1, keepdim=True)).sort(dim=1, descending=True, stable=True)
    held_before = ordered.cumsum(dim=1) - ordered
    return torch.zeros_like(attention, dtype=torch.bool).scatter(1, order, held_before < mass)


def without_specks(mask: Bool[Tensor, "b h w"], size: int = 2) -> Bool[Tensor, "b h w"]:
    """The mask without connected parts (each patch has eight neighbours) of at most `size` patches."""
    kept = [_without_specks(one, size) for one in mask.cpu().numpy()]
    return torch.from_numpy(np.stack(kept)).to(mask.device)


def _without_specks(mask: np.ndarray, size: int) -> np.ndarray:
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    large = np.bincount(parts.ravel()) > size
    large[0] = False  # what is not in the mask
    return large[parts]


def _smooth(maps: Float[Tensor, "b 1 rows columns"]) -> Float[Tensor, "b 1 rows columns"]:
    steps = torch.arange(-REACH, REACH + 1, device=maps.device)
    taps = torch.exp(-0.5 * (steps / SIGMA) ** 2)
    taps = (taps / taps.sum()).to(maps.dtype)
    maps = F.conv2d(_extended(maps, (0, 0, REACH, REACH)), taps.view(1, 1, -1, 1))
    return F.conv2d(_extended(maps, (REACH, REACH, 0, 0)), taps.view(1, 1, 1, -1))


def _extended(maps: Tensor, by: tuple[int, int, int, int]) -> Tensor:
    """The maps mirrored at their borders, as the reference's blur does; of maps too small for that the border is repeated."""
    return F.pad(maps, by, mode="reflect" if min(maps.shape[2:]) > REACH else "replicate")
