"""LiDAR: how many directions tell images apart better than their own augmented views differ. It needs no label.

Thilak et al., LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures, ICLR 2024: the effective rank of
the matrix of a linear discriminant analysis whose surrogate classes are images, each with its augmented views. Noise that every
view has anew counts little, so a rank made of noise does not pass for information, as it does for RankMe. The paper takes one
embedding a view, 1,000 images or more, more images than features, and 10 to 50 views: a rank is at most images - 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from densebench.numerics.spectrum import rank_of

DELTA = 1e-4
ROUNDING = 1e-20  # share of the mean square below which a variance is rounding, in float64


def lidar(views: Float[Tensor, "images views d"], delta: float = DELTA, *, relative: bool = False) -> float:
    """Return LiDAR of embeddings of at least two views of at least two images; at most images - 1 and d (but for epsilon).

        S_b = sum_i (m_i - m)(m_i - m)' / (images - 1)                    m_i: mean of an image's views; m: mean of the m_i
        S_w = sum_iv (e_iv - m_i)(e_iv - m_i)' / (images (views - 1)) + delta I
        p_k = l_k / sum_j l_j + 1e-7                                      l_1 .. l_d: eigenvalues of S_w^-1/2 S_b S_w^-1/2
        LiDAR = exp(-sum_k p_k log p_k)

    delta: a small positive constant in the paper; public implementations take 1e-4, as here, or 1e-6. It is absolute, so the
    value depends on the scale of the features. relative: `delta` is times the mean variance of a feature within images, so that
    backbones whose features have different scales compare. 0 where the images do not differ.
    """
    rows = views.double()
    images, count, width = rows.shape
    means = rows.mean(dim=1)
    between = (means - means.mean(dim=0)) / (images - 1) ** 0.5
    within = (rows - means[:, None]).flatten(0, 1) / (images * (count - 1)) ** 0.5
    _, scales, axes = torch.linalg.svd(within, full_matrices=False)
    variance = float((between**2).sum()) / width
    if variance <= ROUNDING * float((rows**2).mean()):
        return 0.0
    ridge = max(delta * float((scales**2).sum()) / width if relative else delta, 1e-12 * variance)
    # S_w^-1/2 acts on few axes, those of `within`; on all others it divides by the root of delta. So no d x d matrix is needed.
    along = between @ axes.T
    beside = between - along @ axes
    whitened = (along / (scales**2 + ridge).sqrt()) @ axes + beside / ridge**0.5
    values = torch.linalg.svdvals(whitened) ** 2
    return rank_of(torch.nn.functional.pad(values, (0, width - len(values))))
