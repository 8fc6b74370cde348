"""Raw pixels: the baseline that any model has to beat."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Pixels(nn.Module):
    """The feature of a patch is its normalised pixels: `stride * stride * 3` numbers, channel by channel."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Rearrange; nothing is computed."""
        return F.pixel_unshuffle(images, self.stride)
