"""Images that say in their colours which they are, and three views of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from densebench.datasets.images import Images
from densebench.errors import UserError
from densebench.training.augmentation import ViewSpec


class Few(Images):
    """Images of different sizes, each of which says in its colours which it is; some cannot be decoded."""

    name = "few"

    def __init__(self, count, broken=()):
        self.count, self.bad = count, set(broken)

    def __len__(self):
        return self.count

    def title(self, index):
        return f"image {index}"

    def open(self, index):
        if index in self.bad:
            raise UserError(f"image {index} is broken")
        rng = np.random.default_rng(index)
        pixels = rng.integers(0, 256, (40 + 7 * (index % 5), 60 - 4 * (index % 7), 3), dtype=np.uint8)
        pixels[..., 2] = index
        return Image.fromarray(pixels)


VIEWS = (
    ViewSpec(32, (0.25, 1.0), blur=1.0),
    ViewSpec(32, (0.25, 1.0), blur=0.1, solarise=0.2),
    ViewSpec(16, (0.05, 0.4)),
)
