"""Backbones from other places: torch hub, transformers, the user's Python files and plug-ins, and raw pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneInfo, Triple, measured
from densebench.backbones.weights import weights_digest
from densebench.errors import UserError
from densebench.extras import require
from densebench.torchvision_ops import make_importable
from densebench.user_code import file_code, folder_code, guarded, import_file, importing, noticing


class Tokens(nn.Module):
    """A model as a trunk: `take(model, images)` returns its tokens `[b n d]`, which are laid out as a grid."""

    def __init__(self, model: nn.Module, patch: int, take: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.patch, self.take = model, patch, take

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Return the last patch tokens of each image; tokens before the patches (class, registers) are dropped."""
        gh, gw = images.shape[2] // self.patch, images.shape[3] // self.patch
        tokens = self.take(self.model, images)[:, -gh * gw :]
        return tokens.transpose(1, 2).reshape(len(images), -1, gh, gw)


def from_hub(name: str) -> Backbone:
    """Return the model `REPO:ENTRY` of torch hub; REPO may be a local folder with a hubconf.py.

    Raises UserError where it cannot be loaded or has no patch tokens to read.
    """
    repo, _, entry = name.rpartition(":")
    if not repo or not entry:
        raise UserError(f"hub:{name}: it takes REPO:ENTRY, such as hub:facebookresearch/dino:main:dino_vits16")
    make_importable()
    source = "local" if (Path(repo) / "hubconf.py").is_file() else "github"
    try:
        with importing(_hub_folder(repo) / "hubconf.py"):
            model = torch.hub.load(repo, entry, source=source, trust_repo=True)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"hub:{name} cannot be loaded ({type(error).__name__}: {error}); check the names and the network"
        ) from error
    patch = _side(getattr(getattr(model, "patch_embed", None), "patch_size", None) or getattr(model, "patch_size", None), name)
    if hasattr(model, "forward_features"):
        take = _normalised_patches
    elif hasattr(model, "get_intermediate_layers"):
        take = _last_layer
    else:
        raise UserError(
            f"hub:{name} has neither forward_features nor get_intermediate_layers; wrap it in a file: --backbone ./mine.py"
        )
    with guarded(f"hub:{name}", "on a black image"):
        backbone = measured(Tokens(model, patch, take), f"hub:{name}", f"hub {entry}", 4 * patch)
    backbone.info = replace(backbone.info, code=folder_code(_hub_folder(repo)))
    return backbone


def _hub_folder(repo: str) -> Path:
    """Return the folder where torch hub keeps the files of a repository, or will keep them once it is fetched."""
    if (Path(repo) / "hubconf.py").is_file():
        return Path(repo)
    path, _, ref = repo.partition(":")
    owner, _, name = path.partition("/")
    refs = [ref.replace("/", "_")] if ref else ["main", "master"]
    folders = [Path(torch.hub.get_dir(), f"{owner}_{name}_{ref}") for ref in refs]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _normalised_patches(model: Any, images: Tensor) -> Tensor:
    features = model.forward_features(images)
    return features["x_norm_patchtokens"] if isinstance(features, dict) else features


def _last_layer(model: Any, images: Tensor) -> Tensor:
    return model.get_intermediate_layers(images, 1)[0]


def from_transformers(name: str) -> Backbone:
    """Return a vision model of transformers, by repository or folder, with its processor's colour statistics."""
    make_importable()
    transformers = require("transformers", f"hf:{name}")
    try:
        model = transformers.AutoModel.from_pretrained(name)
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    except Exception as error:
        raise UserError(
            f"hf:{name} cannot be loaded ({type(error).__name__}: {error}); check the name and the network"
        ) from error
    patch = _side(getattr(model.config, "patch_size", None), name)
    accepts = "interpolate_pos_encoding" in model.forward.__code__.co_varnames

    def take(network: Any, images: Tensor) -> Tensor:
        more = {"interpolate_pos_encoding": True} if accepts else {}
        return network(pixel_values=images, **more).last_hidden_state

    # a local folder's files may change under one name, so they are digested; a fetched model has a revision
    code = folder_code(Path(name), (".py", ".json")) if Path(name).is_dir() else getattr(model.config, "_commit_hash", None) or ""
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    return measured(Tokens(model, patch, take), f"hf:{name}", type(model).__name__, 4 * patch, mean, std, code)


def from_file(spec: str) -> Backbone:
    """Return what the function `load()` of a Python file returns, as a backbone (`adapt_module`)."""
    path = Path(spec)
    if not path.is_file():
        raise UserError(f"there is no file {spec}; give the path of a Python file with a function load()")
    module = import_file(path, f"densebench_backbone_{path.stem}")
    if not callable(getattr(module, "load", None)):
        raise UserError(f"{spec} has no function load(); add one that returns a module")
    with noticing(path), guarded(path, "in load()"):
        model = module.load()
    with noticing(path):
        backbone = adapt_module(model, spec, f"load() of {spec}", path.stem)
    backbone.info = replace(backbone.info, code=file_code(path))
    return backbone


def adapt_module(model: Any, spec: str, maker: str, arch: str = "") -> Backbone:
    """Return a Backbone unchanged, and a module `[b 3 h w] -> [b d gh gw]` wrapped as one.

    The module may have attributes mean and std (else ImageNet's) and stride. Its width and stride are measured on a black image,
    whose side is a multiple of 64 and of that attribute. maker: what returned the model, for the message. Raises UserError for
    anything else.
    """
    if isinstance(model, Backbone):
        return model
    if not isinstance(model, nn.Module):
        raise UserError(f"{maker} returns a {type(model).__name__}; it must return a torch.nn.Module")
    with guarded(spec, "on a black image"):
        mean, std = (_triple(getattr(model, name, usual)) for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
        side = math.lcm(64, int(getattr(model, "stride", 1) or 1))
        return measured(model.eval(), spec, arch or type(model).__name__, side, mean, std)


class Pixels(nn.Module):
    """The feature of a patch is its normalised pixels: `stride * stride * 3` numbers, channel by channel."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """Rearrange the pixels of each patch into channels."""
        return F.pixel_unshuffle(images, self.stride)


def from_pixels(name: str) -> Backbone:
    """Return the pixels of each patch as a backbone: the baseline that any model has to beat. `name` is the side in px."""
    if not re.fullmatch(r"[1-9][0-9]{0,3}", name):  # one spelling for a size: specs name backbones in tables
        raise UserError(f"pixels:{name}: it takes the side of a patch in px, from 1 to 9999, such as pixels:16")
    stride = int(name)
    trunk = Pixels(stride)
    return Backbone(trunk, BackboneInfo(f"pixels:{name}", "pixels", 3 * stride**2, stride), weights_digest(trunk))


def _triple(values: Any) -> Triple:
    """Return colour statistics as three plain numbers, whether they come as a tuple, an array or a buffer of any shape."""
    red, green, blue = torch.as_tensor(values).flatten().tolist()
    return float(red), float(green), float(blue)


def _side(patch: Any, name: str) -> int:
    if isinstance(patch, int):
        return patch
    if isinstance(patch, tuple | list) and len(set(patch)) == 1:
        return int(patch[0])
    raise UserError(f"{name}: the model does not tell its patch size; wrap it in a file: --backbone ./mine.py")
