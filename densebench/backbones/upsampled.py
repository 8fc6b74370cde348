"""Features on a finer grid: what a backbone gives for an image, upsampled before any protocol reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.backbone import Backbone
from densebench.backbones.upsamplers import Learned, Upsampler, made, parsed
from densebench.backbones.ways import noise
from densebench.errors import UserError

AT_ONCE = 2**25
"""Numbers of finer features that are computed together, about: it bounds the memory of upsamplers."""


class Upsampled(Backbone):
    """A backbone whose features an upsampler makes finer, image by image: its stride is a part of that of the network.

    Images must still be multiples of the network's stride: `multiple`. The upsampler sees the pixels that the network sees, in
    0..1, before any normalisation.
    """

    def __init__(self, coarse: Backbone, upsampler: Upsampler, factor: int, spelling: str) -> None:
        """spelling: what tables call the upsampler."""
        super().__init__(Finer(coarse, upsampler, factor), replace(coarse.info, stride=coarse.stride // factor), coarse.digest)
        self.factor, self.spelling = factor, spelling

    @property
    def multiple(self) -> int:
        """Of what the sides of images are multiples, px: the stride of the network."""
        return self.coarse.multiple

    @property
    def network(self) -> nn.Module:
        """The module that has the weights of the network."""
        return self.coarse.network

    @property
    def coarse(self) -> Backbone:
        """The backbone before its features are made finer."""
        coarse: Any = self.trunk.coarse
        return coarse  # type: ignore[no-any-return]

    @property
    def upsampler(self) -> Upsampler:
        """What makes features finer."""
        upsampler: Any = self.trunk.upsampler
        return upsampler  # type: ignore[no-any-return]

    def of_pixels(self, pixels: Float[Tensor, "b 3 h w"], normalise: Callable[[Tensor], Tensor]) -> Float[Tensor, "b d gh gw"]:
        """Return finer features of images in 0..1, which go through the network normalised."""
        return self.finer(self.coarse.of_pixels(pixels, normalise), pixels)

    def finer(self, features: Float[Tensor, "b d gh gw"], pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d rows columns"]:
        """Return the finer features of images in 0..1 whose features are known."""
        trunk: Any = self.trunk
        finer: Tensor = trunk.finer(features, pixels)
        return finer

    def identity(self) -> dict[str, Any]:
        """Return what identifies the backbone: that of the network, and `upsampler`; `upsample` names it."""
        own = {**self.coarse.identity(), **super().identity()}
        return {**own, "upsample": self.spelling, "upsampler": dict(self.upsampler.about)}


class Finer(nn.Module):
    """A backbone and an upsampler, one after the other."""

    mean: Tensor
    std: Tensor

    def __init__(self, coarse: Backbone, upsampler: Upsampler, factor: int) -> None:
        super().__init__()
        self.coarse, self.upsampler, self.factor = coarse, upsampler, factor
        for name, values in (("mean", coarse.mean), ("std", coarse.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d rows columns"]:
        """Return finer features of images that are normalised with the backbone's colour statistics."""
        return self.finer(self.coarse(images), images.float() * self.std + self.mean)

    def finer(self, features: Float[Tensor, "b d gh gw"], pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d rows columns"]:
        """Return the finer features of images in 0..1, a few images at a time, in float32."""
        size = (features.shape[2] * self.factor, features.shape[3] * self.factor)
        part = max(1, AT_ONCE // (features.shape[1] * size[0] * size[1]))
        with torch.autocast(features.device.type, enabled=False):
            pairs = zip(features.float().split(part), pixels.split(part), strict=True)
            done = [self.upsampler(some, of_them, size) for some, of_them in pairs]
        return done[0] if len(done) == 1 else torch.cat(done)


def upsampled(backbone: Backbone, upsample: str) -> Backbone:
    """Return a backbone whose grid of features is finer. upsample: NAME or NAME:FACTOR.

    NAME: one of `upsamplers.FORMS`. FACTOR: cells of the finer grid to a side of a patch, a divisor of the backbone's stride, 2
    where none is given; `full`: the stride itself, a feature for each pixel. Raises UserError for another name or factor, and
    where a learned upsampler cannot be loaded or does not work.
    """
    name, given = parsed(upsample)
    if isinstance(backbone, Upsampled):
        raise UserError(f"--upsample {upsample}: the features of {backbone.spec} are made finer already, by {backbone.spelling}")
    factor = _factor(backbone, upsample, given)
    upsampler = made(name, factor)
    result = Upsampled(backbone, upsampler, factor, f"{name}:{factor}")
    if isinstance(upsampler, Learned):
        _check(result, name)
    return result


def _factor(backbone: Backbone, upsample: str, given: str) -> int:
    stride = backbone.stride
    factor = stride if given == "full" else int(given)
    fitting = [number for number in range(2, stride + 1) if stride % number == 0]
    if factor not in fitting:
        remedy = f"give {', '.join(map(str, fitting))} or full" if fitting else "leave it out"
        raise UserError(
            f"--upsample {upsample}: {backbone.spec} has a feature every {stride} px, to be divided by {factor}; {remedy}"
        )
    return factor


def _check(backbone: Upsampled, name: str) -> None:
    """Pass two images of noise through a learned upsampler. Raises UserError where its result is no set of features."""
    side = 4 * backbone.multiple
    device = next((part.device for part in backbone.buffers()), torch.device("cpu"))
    with torch.inference_mode():
        images = noise(2, (side, side), device)
        both, again = backbone(images), backbone(images)
        if not bool(both.isfinite().all()):
            raise UserError(f"--upsample {name} returns features that are not finite numbers")
        if not torch.allclose(both, again, rtol=1e-3, atol=1e-5):
            raise UserError(f"--upsample {name} returns other features for the same images: dropout that is always on?")
