"""The view of a picture under a known, random homography: the second picture of a pair whose correspondences are exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from densebench.errors import UserError
from densebench.features.views import View, named_generator
from densebench.numerics.homographies import NoHomographyError, sample_homography, warp

VERSION = 1  # raise it whenever the same fields would give other pixels


@dataclass(frozen=True)
class WarpedView(View):
    """The view of a `View`, then warped by a homography that is drawn from the image's digest, `warp_seed` and the ranges.

    jitter: how far corners move at most, a share of the side; rotation: degrees at most; scale: factor at most; overlap: the
    least share that both pictures see; see `sample_homography`. Values are interpolated bilinearly; outside of the picture is
    black.
    """

    jitter: float = 0.0
    rotation: float = 0.0
    scale: float = 1.0
    overlap: float = 0.0
    warp_seed: int = 0

    def identity(self) -> dict[str, Any]:
        """Return all fields, which decide the pixels with the image's digest: no two warps share a key of the cache."""
        return {"warp": f"homography v{VERSION}", **super().identity()}

    def homography(self, width: int, height: int, digest: str) -> Float[np.ndarray, "3 3"]:
        """Return the homography, in px of the view, of an image of this width and height.

        Raises UserError where the ranges leave no overlap.
        """
        rows, columns = self.shape(width, height)
        ranges = {"jitter": self.jitter, "rotation": self.rotation, "scale": self.scale, "overlap": self.overlap}
        generator = named_generator(f"homography v{VERSION} {self.warp_seed} {[*ranges.values()]} {rows} x {columns} {digest}")
        try:
            return sample_homography(generator, rows, columns, **ranges)
        except NoHomographyError as error:
            raise UserError(
                f"--overlap {self.overlap:g}: no homography with --jitter {self.jitter:g}, --rotation {self.rotation:g} and "
                f"--scale {self.scale:g} keeps so much of a picture in view; lower one of them"
            ) from error

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 h w"]:
        """Return the warped view of an RGB image, float32 in 0..1."""
        return warp(super().image(image, digest), self.homography(*image.size, digest))
