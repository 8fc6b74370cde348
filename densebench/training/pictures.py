"""Parts of a method's pictures: views with coloured clusters, views darkened outside of an object, and frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from densebench.pictures.palette import distinct_palette

SIDE = 160  # side of a shown view, px
PRUNED = (120, 120, 120)
RIGHT, WRONG = (40, 170, 70), (210, 50, 50)


def bytes_of(pixels: Float[Tensor, "3 s s"]) -> np.ndarray:
    """Return a normalised view as bytes, uint8 [SIDE, SIDE, 3]."""
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    shown = F.interpolate((pixels * std + mean)[None].float(), (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
    return (shown.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def painted(
    pixels: Float[Tensor, "3 s s"], labels: Int[Tensor, "gh gw"], valid: Bool[Tensor, " k"], share: float = 0.55
) -> Image.Image:
    """Return a view overlaid with a colour for each cluster, of opacity `share`; clusters that are not valid are grey."""
    table = np.array(distinct_palette(len(valid)), dtype=np.float64)
    table[~valid.cpu().numpy()] = PRUNED
    colours = table[enlarged(labels)]
    return Image.fromarray(((1 - share) * bytes_of(pixels) + share * colours).astype(np.uint8))


def lit(pixels: np.ndarray, mask: Bool[Tensor, "gh gw"], frame: tuple[int, int, int] | None = None) -> Image.Image:
    """Return a view, uint8 [SIDE, SIDE, 3], darkened outside of an object (`mask`), in a frame of a colour; None: no frame."""
    bright = np.where(enlarged(mask)[..., None], 1.0, 0.4)
    shown = (pixels * bright).astype(np.uint8)
    if frame is not None:
        edge = np.ones(shown.shape[:2], bool)
        edge[5:-5, 5:-5] = False
        shown[edge] = frame
    return Image.fromarray(shown)


def framed(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Return a picture with its border replaced by a frame of a colour, 5 px wide."""
    result = Image.new("RGB", (picture.width, picture.height), colour)
    result.paste(picture.crop((5, 5, picture.width - 5, picture.height - 5)), (5, 5))
    return result


def enlarged(grid: Tensor) -> np.ndarray:
    """Return a grid of patches `[gh gw]` enlarged to `[SIDE, SIDE]` by nearest neighbours."""
    rows, columns = (np.arange(SIDE) * side // SIDE for side in grid.shape)
    return grid.cpu().numpy()[np.ix_(rows, columns)]


def cut(image: Image.Image, crop: Sequence[float]) -> np.ndarray:
    """Return the part of an image that a view showed (top, left, height, width, flipped), uint8 [SIDE, SIDE, 3]."""
    top, left, height, width, flipped = crop
    part = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return np.asarray(part)[:, ::-1] if flipped else np.asarray(part)


def first(views: tuple[Tensor, ...], count: int) -> list[tuple[Tensor, ...]]:
    """Return the views of the first `count` images, image by image."""
    return list(zip(*(view[:count].unbind() for view in views), strict=True))


__all__ = ["bytes_of", "cut", "enlarged", "first", "framed", "lit", "painted"]
