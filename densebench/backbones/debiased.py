"""Features without position: directions that encode where a patch lies, projected out before any protocol reads the features.

The directions are those in which the features of pictures without content vary from position to position:

- noise (`--debias N`): 8 seeded images of noise, every value of every pixel uniform in 0..1; the mean of their features at each
  position is taken, so that what the noise itself shows is averaged away.
- black: one black image, as in INSID3 (Cuttano et al., 2025), whose code calls it noise.

They depend on the weights, the layer and the size of the images: they are computed once for every size that is seen.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.backbone import Backbone
from densebench.errors import UserError
from densebench.numerics.arithmetic import float32
from densebench.numerics.positional import positional_directions, without_directions

VERSION = 1  # increase it when the same backbone and number of directions would give other features
NOISE_IMAGES, SEED = 8, 0
SIZES = 64  # sizes of images whose directions are kept
Kind = Literal["noise", "black"]


def debiased(backbone: Backbone, directions: int, kind: Kind = "noise") -> Backbone:
    """Return a backbone whose features have length 1 and lack so many positional directions; the one that is given stays.

    Fewer are removed where the features of noise vary in fewer, such as those of a network that knows no position.
    Raises UserError for a number that would leave nothing of the features, and for a backbone that is debiased or upsampled
    already; and, once images come, for a number of directions that a grid of so few patches does not have.
    """
    if taken := [name for name in ("debias", "upsample") if name in backbone.identity()]:
        raise UserError(f"--debias {directions} goes before anything else; {backbone.spec} has {taken[0]} already: load it anew")
    return Debiased(backbone, directions, kind)


class Debiased(Backbone):
    """A backbone whose trunk removes positional directions; its digest and its name are those of the one that it wraps."""

    def __init__(self, backbone: Backbone, directions: int, kind: Kind) -> None:
        if not 1 <= directions < backbone.dim:
            least = f"the features of {backbone.spec} have {backbone.dim} dimensions"
            raise UserError(f"--debias {directions}: {least}; give 1 to {backbone.dim - 1}, or leave it out")
        super().__init__(WithoutPosition(backbone, directions, kind), backbone.info, backbone.digest)
        self.directions, self.kind = directions, kind

    @property
    def network(self) -> nn.Module:
        """The trunk of the backbone that is wrapped."""
        wrapped: Any = self.trunk
        return wrapped.backbone.network  # type: ignore[no-any-return]

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError where a size does not fit the stride, or its grid has too few patches for so many directions."""
        super().check_size(height, width)
        check_patches(self.directions, self.spec, height // self.stride, width // self.stride)

    def identity(self) -> dict[str, Any]:
        """Return the identity of the backbone that is wrapped, and what is removed."""
        images = {"images": NOISE_IMAGES, "seed": SEED} if self.kind == "noise" else {}
        return {
            **super().identity(),
            "debias": self.directions,
            "debias_from": {"kind": self.kind, "version": VERSION, **images},
        }


def check_patches(directions: int, spec: str, rows: int, columns: int) -> None:
    """Raise UserError where so many directions would be all in which the features of a grid of patches can vary."""
    if directions >= rows * columns - 1:
        what = f"a grid of {columns} x {rows} patches of {spec} has {rows * columns - 1} positional directions at most"
        remedy = f"give {rows * columns - 2} or fewer, or larger images" if rows * columns > 2 else "give larger images"
        raise UserError(f"--debias {directions}: {what}; {remedy}")


class _Bases(OrderedDict[Any, Tensor]):
    """Directions by size and device. A copy of a network starts with none: its weights may change."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Bases:
        return _Bases()


class WithoutPosition(nn.Module):
    """The features of a backbone without its positional directions, which are computed once for every size of images."""

    def __init__(self, backbone: Backbone, directions: int, kind: Kind) -> None:
        super().__init__()
        self.backbone, self.directions, self.kind = backbone, directions, kind
        self._bases = _Bases()

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return float32 features of length 1, or 0 where a feature is all position."""
        directions = self._directions(images)
        features: Tensor = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            return without_directions(features.movedim(1, -1), directions).movedim(-1, 1)

    def _directions(self, images: Tensor) -> Float[Tensor, "d r"]:
        """Return the directions for images of this size, on their device: kept from the last such images, or computed."""
        key = (images.shape[2], images.shape[3], images.device)
        if (found := self._bases.get(key)) is None:
            stride = self.backbone.stride
            check_patches(self.directions, self.backbone.spec, key[0] // stride, key[1] // stride)
            found = directions_at(self.backbone, key[0], key[1], images.device, self.directions, self.kind)
            found = self._bases[key] = found.float().to(images.device)
            if len(self._bases) > SIZES:
                self._bases.popitem(last=False)
        self._bases.move_to_end(key)
        return found


def directions_at(
    backbone: Backbone, height: int, width: int, device: torch.device, most: int, kind: Kind
) -> Float[Tensor, "d r"]:
    """Return the positional directions of a backbone, which is on the device, for images of a size in px: float64, on the CPU.

    Images pass one at a time and in true float32, whatever is computed around this, so that the directions are the same in every
    run, batch and precision.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False), float32(tf32=False):
        grids = [backbone(image[None].to(device)).float().flatten(2).mT.cpu() for image in _images(backbone, height, width, kind)]
    return positional_directions(torch.cat(grids), most)


def _images(backbone: Backbone, height: int, width: int, kind: Kind) -> Float[Tensor, "n 3 h w"]:
    """Return the images of a kind, normalised as the backbone expects."""
    shape = (NOISE_IMAGES, 3, height, width) if kind == "noise" else (1, 3, height, width)
    generator = np.random.Generator(np.random.PCG64(SEED))
    pixels = generator.random(shape, np.float32) if kind == "noise" else np.zeros(shape, np.float32)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (backbone.mean, backbone.std))
    return torch.from_numpy((pixels - mean) / std)


def check_frozen(backbone: Backbone, what: str) -> None:
    """Raise UserError where a debiased backbone would be trained: its directions are those of the weights that it had."""
    if isinstance(backbone, Debiased):
        raise UserError(f"--debias {backbone.directions} goes with frozen features, and {what} trains the backbone; leave it out")
