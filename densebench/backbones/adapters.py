"""Backbones from other places: torch hub, transformers, the user's Python files and plug-ins, and raw pixels."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.private_copy import unwrapped
from densebench.backbones.recognising import from_timm_model, is_timm_model, recognise, triple
from densebench.backbones.timm_models import is_plain_vit
from densebench.backbones.ways import feature_calls
from densebench.backbones.weights import weights_digest
from densebench.console import notice
from densebench.errors import UserError
from densebench.extras import require
from densebench.torchvision_ops import make_importable
from densebench.user_code import file_code, folder_code, guarded, import_file, importing, noticing

WRAP = "wrap it in a file: --backbone ./mine.py"


def from_hub(name: str) -> Backbone:
    """Return the model `REPO:ENTRY` of torch hub; REPO may be a local folder with a hubconf.py.

    Raises UserError where it cannot be loaded or has no patch tokens to read.
    """
    model, code = hub_entry(name, f"hub:{name}", "hub:facebookresearch/dino:main:dino_vits16")
    calls = feature_calls(model)
    if not calls:
        raise UserError(f"hub:{name} has neither forward_features nor get_intermediate_layers; {WRAP}")
    with guarded(f"hub:{name}", "on an image of noise"):
        arch = f"hub {name.rpartition(':')[2]}"
        backbone = recognise(model, f"hub:{name}", f"hub:{name}", arch=arch, calls=calls[:1], remedy=WRAP)
    return _finished(backbone, code)


def hub_entry(name: str, title: str, example: str) -> tuple[Any, str]:
    """Return what the entry `REPO:ENTRY` of torch hub gives, and the digest of the repository's code.

    title: the option or the spec, for messages. Raises UserError where it cannot be loaded.
    """
    repo, _, entry = name.rpartition(":")
    if not repo or not entry:
        raise UserError(f"{title}: it takes REPO:ENTRY, such as {example}")
    make_importable()
    source = "local" if (Path(repo) / "hubconf.py").is_file() else "github"
    try:
        with importing(_hub_folder(repo) / "hubconf.py"):
            model = torch.hub.load(repo, entry, source=source, trust_repo=True)
    except (Exception, SystemExit) as error:
        raise UserError(f"{title} cannot be loaded ({type(error).__name__}: {error}); check the names and the network") from error
    return model, folder_code(_hub_folder(repo))


def _finished(backbone: Backbone, code: str) -> Backbone:
    """Return the backbone of a fetched model with the digest of its code; its weights are named as the trunk names them."""
    notice(backbone.info.recognised)
    return Backbone(backbone.trunk, replace(backbone.info, code=code), weights_digest(backbone.trunk))


def _hub_folder(repo: str) -> Path:
    """Return the folder where torch hub keeps the files of a repository, or will keep them once it is fetched."""
    if (Path(repo) / "hubconf.py").is_file():
        return Path(repo)
    path, _, ref = repo.partition(":")
    owner, _, name = path.partition("/")
    refs = [ref.replace("/", "_")] if ref else ["main", "master"]
    folders = [Path(torch.hub.get_dir(), f"{owner}_{name}_{ref}") for ref in refs]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


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
    # a local folder's files may change under one name, so they are digested; a fetched model has a revision
    code = folder_code(Path(name), (".py", ".json")) if Path(name).is_dir() else getattr(model.config, "_commit_hash", None) or ""
    statistics: dict[str, Any] = {"mean": processor.image_mean, "std": processor.image_std}
    with guarded(f"hf:{name}", "on an image of noise"):
        backbone = recognise(model, f"hf:{name}", f"hf:{name}", arch=type(model).__name__, remedy=WRAP, **statistics)
    return _finished(backbone, code)


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
    """Return a Backbone unchanged, and a module as the backbone that is recognised in it.

    The module may have attributes mean and std (else ImageNet's) and stride, of which the sizes of the probes are multiples.
    maker: what returned the model, for the message. Raises UserError for anything else.
    """
    if isinstance(model, Backbone):
        return model
    if not isinstance(model, nn.Module):
        raise UserError(f"{maker} returns a {type(model).__name__}; it must return a torch.nn.Module")
    title = arch or type(model).__name__
    inner = unwrapped(model)
    with guarded(spec, "on an image of noise"):
        if is_timm_model(inner) and is_plain_vit(inner):  # its forward gives no patches
            backbone = from_timm_model(inner, title, "last", "auto", None, None)
            backbone = Backbone(backbone.trunk, replace(backbone.info, spec=spec), backbone.digest)
        else:
            backbone = recognise(inner, spec, title, remedy="let it return patch features [b d gh gw]")
    mean, std = (triple(torch.tensor(values), "") for values in (backbone.mean, backbone.std))  # in float32, as records have them
    backbone = Backbone(backbone.trunk, replace(backbone.info, mean=mean, std=std), backbone.digest)
    notice(backbone.info.recognised)
    return backbone


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
