"""Pictures whose patches stand in random order, so that what they show says nothing of where it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from densebench.features.views import View, named_generator


@dataclass(frozen=True)
class ShuffledView(View):
    """A view whose squares of `stride` px are shuffled: in an order drawn from `shuffle_seed` and the image."""

    shuffle_seed: int = 0

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 h w"]:
        """Return the shuffled view of an RGB image, float32 in 0..1."""
        return self._shuffled(super().image(image, digest), digest)

    def label(self, label: UInt8[np.ndarray, "h w"], digest: str) -> UInt8[Tensor, "rows columns"]:
        """Return the view of a label map, in the order of the image. `digest` is the image's."""
        return self._shuffled(super().label(label, digest)[None], digest)[0]

    def _shuffled(self, pixels: Shaped[Tensor, "c h w"], digest: str) -> Shaped[Tensor, "c h w"]:
        rows, columns = (side // self.stride for side in pixels.shape[1:])
        order = named_generator(f"shuffle {self.shuffle_seed} {digest}").permutation(rows * columns)
        return shuffled(pixels, self.stride, torch.from_numpy(order))


def shuffled(pixels: Shaped[Tensor, "c h w"], side: int, order: Shaped[Tensor, " n"]) -> Shaped[Tensor, "c h w"]:
    """Return an image made of its own squares of `side` px: the i-th, row by row, is the one that was the order[i]-th."""
    channels, height, width = pixels.shape
    rows, columns = height // side, width // side
    squares = pixels.view(channels, rows, side, columns, side).permute(1, 3, 0, 2, 4).reshape(-1, channels, side, side)
    return squares[order].view(rows, columns, channels, side, side).permute(2, 0, 3, 1, 4).reshape(channels, height, width)
