"""Directions of features that encode where a patch lies, and features without them.

What remains of the features of pictures without content, once their mean is taken away, depends on the position alone. Its
leading directions are projected out of the features of real pictures, as INSID3 does with a black image (Cuttano et al., 2025).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ROUNDING = 1e-5
"""A length, of vectors of length 1, below which what is left of a float32 feature is rounding error."""


def positional_directions(grids: Float[Tensor, "n positions d"], most: int) -> Float[Tensor, "d r"]:
    """Return the leading directions in which features vary with the position, orthonormal, in float64: r = `most` at most.

        m_p = mean over the n images of x_p / |x_p|,   the right singular vectors of the rows m_p - mean over p of m_p

    Fewer come back where there are fewer: the rows have a rank below the number of positions, and directions along which they
    vary by no more than the rounding of float32 are noise of the arithmetic, which differs from machine to machine.
    """
    means = F.normalize(grids.double(), dim=-1).mean(dim=0)
    values, directions = torch.linalg.svd(means - means.mean(dim=0), full_matrices=False)[1:]
    count = min(most, int((values > ROUNDING * len(means) ** 0.5).sum()))
    return directions[:count].T.contiguous()


def without_directions(features: Float[Tensor, "*n d"], directions: Float[Tensor, "d r"]) -> Float[Tensor, "*n d"]:
    """Return features of length 1 without their parts along orthonormal directions: x / |x|, projected, at length 1 again.

    A feature of which nothing but rounding is left becomes 0 rather than rounding error of length 1; so does 0 itself. The
    rounding is that of the dtype of `features`; the arithmetic and the result have that of `directions`.
    """
    unit = F.normalize(features.to(directions.dtype), dim=-1)
    left = unit - unit @ directions @ directions.T
    length = left.norm(dim=-1, keepdim=True)
    return torch.where(length > max(ROUNDING, torch.finfo(features.dtype).eps), left / length, torch.zeros_like(left))


def position_share(total: Float[Tensor, "positions d"], squares: Float[Tensor, ""], count: int) -> float:
    """Return the variance over positions of the mean feature at each position, as a share of the variance of all features.

    total: the sum of the features of `count` images at each position; squares: the sum of all their squares. It is 1 for features
    that the position decides, and 0 without variance. Features without position have about 1 / count at most, since the means are
    of so few: 1 / count of the share of variance that lies inside images.
    """
    means = total.double() / count
    centre = means.mean(dim=0)
    between = float(((means - centre) ** 2).sum(dim=1).mean())
    whole = float(squares) / (count * len(means)) - float((centre**2).sum())
    return min(1.0, between / whole) if whole > ROUNDING**2 else 0.0
