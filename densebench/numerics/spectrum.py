"""How many directions features use: the effective rank, which needs no label.

Roy and Vetterli, The Effective Rank, EUSIPCO 2007; as RankMe: Garrido et al., RankMe: Assessing the Downstream Performance of
Pretrained Self-Supervised Representations by Their Rank, ICML 2023.

RankMe takes one embedding an image, of 25,600 images. Taken over patches, as here is usual, values are other ones: compare them
only between backbones with the same pictures and the same number of patches (`drawn`), never with the paper's numbers. A rank is
at most min(n, d), so wide backbones reach greater ones: show it beside that.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from densebench.numerics.seeds import seed_of

EPSILON = 1e-7  # RankMe's, added to each share


def drawn(tokens: Float[Tensor, "n d"], count: int, seed: int = 0) -> Float[Tensor, "m d"]:
    """Return at most `count` tokens, drawn without replacement, in their order; which ones depends on n, count and seed alone."""
    if len(tokens) <= count:
        return tokens
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed_of(seed, "drawn", len(tokens), count)))
    return tokens[order[:count].sort().values.to(tokens.device)]


def effective_rank(tokens: Float[Tensor, "n d"]) -> float:
    """Return the effective rank of an n x d matrix, which is not centred, between 1 and min(n, d): RankMe.

        p_k = s_k / sum_j s_j + 1e-7        of the singular values s_1 .. s_min(n, d)
        rank = exp(-sum_k p_k log p_k)

    It is 1 where all tokens are multiples of one, and min(n, d) where all singular values are equal (up to the 1e-7). 0 for
    tokens that are all zero. The scale of the features does not matter, nor does their basis.
    """
    return rank_of(torch.linalg.svdvals(tokens.double())) if tokens.numel() else 0.0


def rank_of(values: Float[Tensor, " k"]) -> float:
    """Return exp(entropy) of values that are not negative, each as a share of their sum plus 1e-7; 0 where all are 0."""
    total = values.sum()
    if total <= 0:
        return 0.0
    share = values / total + EPSILON
    return float(torch.exp(-(share * share.log()).sum()))
