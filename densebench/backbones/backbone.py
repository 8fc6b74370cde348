"""A backbone: images in, a grid of patch features out; width, stride and colour statistics are read from the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from densebench.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone besides its weights.

    spec: as the user gave it; arch: the architecture's name; dim: width of the features; stride: px of the image per feature;
    mean, std: the colour statistics of the training images; layer: which features; pos_embed: how the position table is resized,
    "none" without one; origin: the project whose layout the weights had; kind: the source in the spec (timm, ckpt, file, ...);
    code: the digest of the user's own code that makes the features, "" for built-in code; name: what tables call it, "" for its
    spec; recognised: where in the output of a module its features are, in words.
    """

    spec: str
    arch: str
    dim: int
    stride: int
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    layer: str = "last"
    pos_embed: str = "none"
    origin: str = ""
    kind: str = "module"
    code: str = ""
    name: str = ""
    recognised: str = ""


class Backbone(nn.Module):
    """A frozen model in evaluation mode, float32: `[b 3 h w]` to `[b d gh gw]` with gh = h / stride and gw = w / stride."""

    def __init__(self, trunk: nn.Module, info: BackboneInfo, digest: str) -> None:
        """Wrap a trunk, which maps normalised images to patch features; `digest` is the SHA-256 of its weights."""
        super().__init__()
        self.trunk = trunk.float().requires_grad_(False)
        self.eval()
        self.info, self.digest = info, digest
        self.spec, self.arch, self.dim, self.stride = info.spec, info.arch, info.dim, info.stride
        self.mean, self.std, self.layer, self.pos_embed = info.mean, info.std, info.layer, info.pos_embed
        self.params = sum(parameter.numel() for parameter in trunk.parameters())

    @property
    def network(self) -> nn.Module:
        """The module that has the weights: the trunk, or what it wraps where it only changes another backbone's features."""
        return self.trunk

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return patch features of images that are already normalised with `mean` and `std`.

        Raises UserError naming the nearest two sizes where the stride does not divide the image, and for a model that maps
        images of this size to another grid.
        """
        height, width = images.shape[2:]
        self.check_size(height, width)
        features: Tensor = self.trunk(images)
        if features.shape[2:] != (height // self.stride, width // self.stride):
            raise UserError(
                f"{self.spec} maps {height} x {width} px to {tuple(features.shape[1:])}, although its stride is {self.stride}: "
                "its patches do not lie on a grid over such images; use another size or backbone"
            )
        return features

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError where the stride does not divide a side; it names the nearest two sizes that fit."""
        for side in (height, width):
            if side % self.stride or side < self.stride:
                low = side // self.stride * self.stride
                fits = f"{low} or {low + self.stride}" if low else str(self.stride)
                raise UserError(f"an image side of {side} px does not fit {self.spec}, whose stride is {self.stride}: use {fits}")

    def identity(self) -> dict[str, Any]:
        """Return what identifies this backbone, as JSON values; the keys in `LABELS` only name it and decide no feature."""
        names = ("spec", "arch", "dim", "stride", "params", "layer", "pos_embed")
        return {
            **{name: getattr(self, name) for name in names},
            "origin": self.info.origin,
            "kind": self.info.kind,
            "code": self.info.code,
            "mean": list(self.mean),
            "std": list(self.std),
            "digest": self.digest,
            **{name: value for name in ("name", "recognised") if (value := getattr(self.info, name))},
        }


def measure(trunk: nn.Module, side: int) -> tuple[int, int]:
    """Return the width of a trunk's features and its stride, measured on one black image of `side` px.

    Raises UserError where the trunk returns no square grid `[b d gh gw]`.
    """
    with torch.inference_mode():
        grid = trunk(torch.zeros(1, 3, side, side))
    if not isinstance(grid, Tensor):
        raise UserError(f"the model returns a {type(grid).__name__}; patch features are a tensor [b d gh gw]")
    if grid.ndim != 4 or side % grid.shape[2] or grid.shape[2] != grid.shape[3]:
        raise UserError(f"the model maps {side} x {side} px to {tuple(grid.shape)}; patch features are [b d gh gw]")
    return int(grid.shape[1]), side // int(grid.shape[2])
