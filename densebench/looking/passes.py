"""Pictures through a backbone: features, token norms and class-token attention, and the time of each pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.backbones.inside import inside
from densebench.console import progress
from densebench.errors import UserError
from densebench.features.cost import time_on
from densebench.features.extract import Normalisation, autocast
from densebench.features.views import to_tensor

LONGEST = 8
"""The long side of a view at most, times the side of a square: a panorama that is even longer is squeezed."""


def shape(width: int, height: int, stride: int, side: int) -> tuple[int, int]:
    """Return the height and width at which a backbone gets a picture: its aspect, about `side`^2 pixels, multiples of the stride.

    So every backbone gets about as many pixels of a picture, whatever its stride. The long side is at most LONGEST x `side`.
    """
    scale = side / (width * height) ** 0.5
    long = max(width, height) * scale
    squeezed = min(1.0, LONGEST * side / long)
    fitted = (max(stride, round(length * scale * squeezed / stride) * stride) for length in (height, width))
    return next(fitted), next(fitted)


def view(image: Image.Image, size: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
    """Return a picture resized to a height and width, 0..1, antialiased."""
    return to_tensor(image.resize(size[::-1], Image.Resampling.BICUBIC))[None]


@dataclass
class Extracted:
    """What a backbone made of pictures, on the CPU: features, norms of its tokens, attention of the class token.

    norms: L2 norms; `before_norm`: of the tokens of a ViT after the last block that is used, before the final norm layer, which
    would make them nearly equal and hide the artefacts; else of the features. seconds: of each pass of the backbone alone.
    """

    grids: list[Float[Tensor, "gh gw d"]] = field(default_factory=list)
    norms: list[Float[Tensor, "gh gw"]] = field(default_factory=list)
    attention: list[Float[Tensor, "heads gh gw"] | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    before_norm: bool = False

    @property
    def tokens(self) -> Float[Tensor, "n d"]:
        """The features of all patches of all pictures."""
        return torch.cat([grid.flatten(0, 1) for grid in self.grids])

    @property
    def per_second(self) -> float:
        """Pictures a second; the first pass, which warms up, does not count where there are others."""
        counted = self.seconds[1:] or self.seconds
        return len(counted) / max(sum(counted), 1e-9)


def extracted(backbone: Backbone, images: Sequence[Image.Image], side: int, device: torch.device) -> Extracted:
    """Return what a backbone makes of pictures, one pass for each. Raises UserError where features are not finite numbers."""
    backbone.to(device)
    result = Extracted()
    with progress("look", len(images)) as bar, _timed(backbone, device, result.seconds):
        for image in images:
            inputs = normalised(backbone, view(image, shape(*image.size, backbone.multiple, side)), device)
            with autocast(device, "fp32"):
                found = inside(backbone, inputs)
            grid = found.features[0].movedim(0, -1).float().cpu().contiguous()
            if not bool(grid.isfinite().all()):
                raise UserError("its features are not finite numbers; check the weights")
            result.before_norm = found.patches is not None
            tokens = grid if found.patches is None else found.patches[0].float().cpu()
            result.grids.append(grid)
            result.norms.append(tokens.norm(dim=-1))
            result.attention.append(None if found.attention is None else found.attention[0].float().cpu())
            bar.advance()
    return result


def normalised(backbone: Backbone, images: Float[Tensor, "b 3 h w"], device: torch.device) -> Float[Tensor, "b 3 h w"]:
    """Return images on the device, less the mean colour of the backbone and divided by its deviation."""
    return Normalisation(backbone.mean, backbone.std)(images.to(device))


def features(backbone: Backbone, inputs: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b gh gw d"]:
    """Return the features of normalised images, in true float32."""
    with torch.inference_mode(), autocast(inputs.device, "fp32"):
        return backbone(inputs).movedim(1, -1).float().contiguous()


@contextmanager
def _timed(backbone: Backbone, device: torch.device, seconds: list[float]) -> Iterator[None]:
    """Append the seconds of each pass of the backbone in the block; another one that its attention takes is not counted."""
    began: list[float] = []
    hooks = [
        backbone.register_forward_pre_hook(lambda *_: began.append(time_on(device))),
        backbone.register_forward_hook(lambda *_: seconds.append(time_on(device) - began.pop())),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
