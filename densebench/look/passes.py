"""Pictures through a backbone: their features, what its last block keeps to itself, and what a pass costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.backbones.inside import class_attention, has_class_attention, patches_after
from densebench.backbones.timm_models import TimmTrunk, is_plain_vit
from densebench.errors import UserError
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
class Passed:
    """What a backbone made of pictures, on the CPU: features, norms of its tokens (see `norms`), attention of the class token.

    seconds: of each pass for the features alone, the device awaited.
    """

    grids: list[Float[Tensor, "gh gw d"]] = field(default_factory=list)
    norms: list[Float[Tensor, "gh gw"]] = field(default_factory=list)
    attention: list[Float[Tensor, "heads gh gw"] | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> Float[Tensor, "n d"]:
        """The features of all patches of all pictures."""
        return torch.cat([grid.flatten(0, 1) for grid in self.grids])

    @property
    def per_second(self) -> float:
        """Pictures a second; the first pass, which warms up, does not count where there are others."""
        counted = self.seconds[1:] or self.seconds
        return len(counted) / max(sum(counted), 1e-9)


def passed(backbone: Backbone, images: Sequence[Image.Image], side: int, device: torch.device) -> Passed:
    """Return what a backbone makes of pictures, one at a time. Raises UserError where features are not finite numbers."""
    backbone.to(device)
    result = Passed()
    for image in images:
        inputs = normalised(backbone, view(image, shape(*image.size, backbone.stride, side)), device)
        began = _now(device)
        grid = features(backbone, inputs)[0]
        result.seconds.append(_now(device) - began)
        if not bool(grid.isfinite().all()):
            raise UserError("its features are not finite numbers; check the weights")
        result.grids.append(grid.cpu())
        result.norms.append(norms(backbone, inputs, grid).cpu())
        result.attention.append(class_attention(backbone, inputs)[0].float().cpu() if has_class_attention(backbone) else None)
    return result


def normalised(backbone: Backbone, images: Float[Tensor, "b 3 h w"], device: torch.device) -> Float[Tensor, "b 3 h w"]:
    """Return images on the device, less the mean colour of the backbone and divided by its deviation."""
    return Normalisation(backbone.mean, backbone.std)(images.to(device))


def features(backbone: Backbone, inputs: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b gh gw d"]:
    """Return the features of normalised images, in true float32."""
    with torch.inference_mode(), autocast(inputs.device, "fp32"):
        return backbone(inputs).movedim(1, -1).float().contiguous()


def norms(backbone: Backbone, inputs: Float[Tensor, "b 3 h w"], grid: Float[Tensor, "gh gw d"]) -> Float[Tensor, "gh gw"]:
    """Return the lengths of the tokens of one image: after the last block of a ViT that is used, before its last norm, else of the features.

    The last norm makes all lengths nearly equal, and hides the artefacts that the registers paper is about.
    """
    if not (isinstance(backbone.trunk, TimmTrunk) and is_plain_vit(backbone.trunk.model) and _of_blocks(backbone.layer)):
        return grid.norm(dim=-1)
    with autocast(inputs.device, "fp32"):
        tokens = patches_after(backbone, inputs, [max(backbone.trunk.layers) + 1])[0][0]
    return tokens.float().norm(dim=-1).unflatten(0, grid.shape[:2])


def _of_blocks(layer: str) -> bool:
    """Return whether features are what blocks give, rather than queries, keys, values or attention."""
    return layer == "last" or layer.replace(",", "").isdecimal()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
