"""What makes a grid of features finer: training-free filters, and learned upsamplers of torch hub or of the user's own files.

A user's file has a function or module `upsample(image, features, size)`: images `[b 3 h w]`, features `[b d gh gw]`, and the rows
and columns wanted; it returns `[b d rows columns]`. Images are normalised with the file's `mean` and `std`, ImageNet's where it
states none. An entry of torch hub is called likewise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.adapters import hub_entry
from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Triple
from densebench.backbones.callables import held
from densebench.backbones.recognising import triple
from densebench.backbones.weights import weights_digest
from densebench.errors import UserError, unknown
from densebench.files.atomic import digest
from densebench.numerics import upsampling
from densebench.user_code import file_code, guarded, import_file, noticing

VERSION = 1  # increase it when the same parameters would give other features
TRAINING_FREE = ("nearest", "bilinear", "joint-bilateral", "joint-bilateral-naf", "guided")
HUB, FILE = "hub", "file"
FORMS = (*TRAINING_FREE, "./file.py", "hub:REPO:ENTRY")
SIGMA_COLOUR, EPS = 0.1, 1e-3
NAF_FACTOR, NAF_RADIUS, NAF_SIGMA = 4, 2, 1.5

Size = tuple[int, int]


class Upsampler(nn.Module):
    """Maps features and the images that they are of to features on a finer grid.

    about: what identifies it, as JSON values. linear: whether each channel's result is linear in that channel, and a constant
    stays: then a linear layer may come before it as well as after it. needs_pixels: whether it looks at the images.
    """

    about: Mapping[str, Any]
    linear = False
    needs_pixels = True

    def forward(
        self, features: Float[Tensor, "b d gh gw"], pixels: Float[Tensor, "b 3 h w"], size: Size
    ) -> Float[Tensor, "b d rows columns"]:
        """Return features of `size`. pixels: the images in 0..1, sRGB, as the network saw them."""
        raise NotImplementedError


class TrainingFree(Upsampler):
    """One of TRAINING_FREE at a factor. Windows grow with the factor: their radius is one cell of the grid."""

    linear = True

    def __init__(self, name: str, factor: int) -> None:
        super().__init__()
        self.name, self.factor = name, factor
        self.needs_pixels = name not in ("nearest", "bilinear")
        parameters: dict[str, Any] = {}
        if name == "joint-bilateral":
            parameters = {"radius": factor, "sigma_space": 0.75 * factor, "sigma_colour": SIGMA_COLOUR}
        elif name == "guided":
            parameters = {"radius": factor, "eps": EPS, "guidance": "rgb"}
        elif name == "joint-bilateral-naf":
            parameters = {"at": NAF_FACTOR, "radius": NAF_RADIUS, "sigma_space": NAF_SIGMA, "sigma_colour": SIGMA_COLOUR}
        self.about = {"name": name, "factor": factor, "version": VERSION, **parameters}

    def forward(
        self, features: Float[Tensor, "b d gh gw"], pixels: Float[Tensor, "b 3 h w"], size: Size
    ) -> Float[Tensor, "b d rows columns"]:
        """Return features of `size`; see `Upsampler.forward`."""
        if self.name == "nearest":
            return upsampling.nearest(features, size)
        if self.name == "bilinear":
            return upsampling.bilinear(features, size)
        if self.name == "joint-bilateral-naf":
            return _as_naf(features, pixels, size)
        guidance = F.avg_pool2d(pixels, (pixels.shape[2] // size[0], pixels.shape[3] // size[1]))
        if self.name == "guided":
            radius = self.factor
            apply: upsampling.Filter = functools.partial(upsampling.guided_filter, radius=radius, eps=EPS)
            return upsampling.through_cells(apply, 2 * radius, features, guidance)
        radius = min(self.factor, min(size) - 1)
        apply = functools.partial(
            upsampling.joint_bilateral_filter, radius=radius, sigma_space=0.75 * self.factor, sigma_colour=SIGMA_COLOUR
        )
        return upsampling.through_cells(apply, radius, features, guidance)


def _as_naf(
    features: Float[Tensor, "b d gh gw"], pixels: Float[Tensor, "b 3 h w"], size: Size
) -> Float[Tensor, "b d rows columns"]:
    """Return features as NAF's baseline upsamples them, whatever the size: filtered at four times the grid, then bilinearly.

    Its guidance is the image normalised by ImageNet's statistics, resized without antialiasing; colours differ by the sum over
    channels, so that its 0.1 is about 0.023 of the range 0..1.
    """
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    between = (NAF_FACTOR * features.shape[2], NAF_FACTOR * features.shape[3])
    guidance = upsampling.bilinear((pixels - mean) / std, between)
    apply = functools.partial(
        upsampling.joint_bilateral_filter, radius=NAF_RADIUS, sigma_space=NAF_SIGMA, sigma_colour=SIGMA_COLOUR, norm=1
    )
    return upsampling.bilinear(upsampling.through_cells(apply, NAF_RADIUS, features, guidance), size)


class Learned(Upsampler):
    """A learned upsampler: `call(images, features, size)`, with images normalised by mean and std."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, title: str, call: Callable[..., Any], mean: Triple, std: Triple, about: Mapping[str, Any]) -> None:
        super().__init__()
        modules = list({id(module): module for module, _ in held(call)}.values())
        for module in modules:
            module.eval().requires_grad_(False)
        self.parts = nn.ModuleList(modules)  # so that they move to the device
        self.title, self.call = title, [call]  # in a list, since an attribute that is a module would be registered twice
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(f"image_{name}", torch.tensor(values).view(3, 1, 1), persistent=False)
        weights = digest([weights_digest(module) for module in modules], 16)
        self.about = {**about, "version": VERSION, "mean": list(mean), "std": list(std), "weights": weights}

    def forward(
        self, features: Float[Tensor, "b d gh gw"], pixels: Float[Tensor, "b 3 h w"], size: Size
    ) -> Float[Tensor, "b d rows columns"]:
        """Return features of `size`; see `Upsampler.forward`. Raises UserError for a result that is no such tensor."""
        images = (pixels - self.image_mean) / self.image_std
        with guarded(self.title, "when it upsamples"):
            result = self.call[0](images, features, size)
        expected = (*features.shape[:2], *size)
        if not isinstance(result, Tensor) or tuple(result.shape) != expected:
            found = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
            raise UserError(f"--upsample {self.title} returns {found}; features of this size are a tensor {expected}")
        if not result.is_cuda and not bool(result.isfinite().all()):  # on a GPU the host would wait: `checked` has looked
            raise UserError(f"--upsample {self.title} returns features that are not finite numbers")
        return result.float()


def parsed(spec: str) -> tuple[str, str]:
    """Return the name and the factor, a number or `full`, of NAME[:FACTOR]. Raises UserError for any other text."""
    head, _, last = spec.rpartition(":")
    name, factor = (head, last) if head and (last == "full" or last.isdecimal()) else (spec, "2")
    if name not in TRAINING_FREE and not name.endswith(".py") and not name.startswith(f"{HUB}:"):
        raise unknown("--upsample", spec, TRAINING_FREE, f"it is one of {', '.join(FORMS)}, then perhaps :FACTOR or :full")
    return name, factor


def made(name: str, factor: int) -> Upsampler:
    """Return the upsampler of a name for a factor. Raises UserError where a learned one cannot be loaded."""
    if name in TRAINING_FREE:
        return TrainingFree(name, factor)
    if name.startswith(f"{HUB}:"):
        entry = name.removeprefix(f"{HUB}:")
        model, code = hub_entry(entry, f"--upsample {name}", "hub:wimmerth/anyup:anyup_multi_backbone")
        about = {"name": HUB, "factor": factor, "entry": entry.rpartition(":")[2], "code": code}
        return _learned(name, model, IMAGENET_MEAN, IMAGENET_STD, about)
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--upsample {name}: there is no such file; give a Python file with upsample(image, features, size)")
    module = import_file(path, f"densebench_upsampler_{path.stem}")
    usual = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    stated = [triple(getattr(module, name, usual[name]), f"{path}: {name}") for name in usual]
    with noticing(path):
        upsampler = _learned(name, getattr(module, "upsample", None), stated[0], stated[1], {"name": FILE, "factor": factor})
    upsampler.about = {**upsampler.about, "code": file_code(path)}
    return upsampler


def _learned(title: str, call: Any, mean: Triple, std: Triple, about: Mapping[str, Any]) -> Learned:
    if not callable(call):
        raise UserError(
            f"--upsample {title} gives a {type(call).__name__}; it takes a function or a module: upsample(image, features, size)"
        )
    return Learned(title, call, mean, std, about)
