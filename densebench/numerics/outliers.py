"""Artefact tokens: patches whose norm is far greater than that of all others, where a ViT keeps global information.

Darcet et al., Vision Transformers Need Registers, ICLR 2024: in large ViTs the norms of patches have two modes, and about 2 % of
the patches, mostly of plain background, have a norm some ten times as great. The paper reads its cutoff (150) off the histogram
of DINOv2; that number fits no other backbone, so here the cutoff follows the norms themselves.
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor

FACTOR = 2.0  # times the median: less is no second mode
DEVIATIONS = 6.0  # robust ones, of the logarithm: what a single mode practically never reaches


def outlier_cutoff(norms: Float[Tensor, " n"]) -> float:
    """Return the norm above which a token is an artefact, by all tokens of all pictures of one backbone; infinity without norms.

        cutoff = median * max(2, exp(6 * 1.4826 * median |log(norm / median)|))

    1.4826 times the median of absolute deviations is the standard deviation of a normal distribution and is not moved by the
    artefacts. So norms of one mode, narrow or wide, have practically none above it, and the scale of norms does not matter.
    """
    known = norms.double()[norms > 0]
    if 2 * len(known) <= len(norms):
        return math.inf
    logs = known.log()
    median = float(logs.median())
    deviation = 1.4826 * float((logs - median).abs().median())
    return math.exp(median + max(math.log(FACTOR), DEVIATIONS * deviation))


def outlier_tokens(norms: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """Return which tokens are artefacts: those whose norm is above `outlier_cutoff` of all the given norms.

    norms: of the tokens of all pictures of one backbone, of any shape. Give norms of the tokens after the last block and before
    the model's last norm (`densebench.backbones.inside.patches_after`): a LayerNorm makes all norms nearly equal, and hides
    artefacts there. For a backbone that is no ViT give those of its features.
    """
    return norms > outlier_cutoff(norms.flatten())
