"""Label maps from a grid of class scores: upsampled bilinearly, then the best class of each pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

AT_ONCE = 2**26  # upsampled scores held at once: bounds the memory


def best_classes(
    scores: Float[Tensor, "c gh gw"], height: int, width: int, at_once: int = AT_ONCE
) -> UInt8[Tensor, "height width"]:
    """Return the class of each pixel of an image of any size: scores upsampled bilinearly (pixel centres aligned), then the best.

    The lowest class wins a tie. Large images are made in strips of rows of at most `at_once` scores, so that an image of 50
    megapixels and 150 classes needs no more memory than a small one; the strips agree with the whole within rounding.
    """
    classes, rows, _ = scores.shape
    if classes * height * width <= at_once:
        large = F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)[0]
        return large.max(0).indices.to(torch.uint8)
    centres = ((torch.arange(height, dtype=torch.float64) + 0.5) * rows / height - 0.5).clamp(min=0)
    upper = centres.long().clamp(max=rows - 1)
    share = (centres - upper).clamp(max=1).to(scores)[:, None]
    lower = (upper + 1).clamp(max=rows - 1)
    strips = []
    for some in torch.arange(height).split(max(1, at_once // (classes * width))):
        above, below = scores[:, upper[some]], scores[:, lower[some]]
        strip = above + (below - above) * share[some]
        large = F.interpolate(strip[None], (len(some), width), mode="bilinear", align_corners=False)[0]
        strips.append(large.max(0).indices.to(torch.uint8))
    return torch.cat(strips)
