"""Any model as a backbone: a module, a timm or transformers model, or a function of images.

The caller's object is never changed: a private copy is probed (`probing`), and one line says what was recognised. A timm
model runs as under `timm:NAME`. What gives no patch features is refused, with the shapes that were seen and the line to write.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneInfo, Triple
from densebench.backbones.callables import check_features, check_own, copied_function
from densebench.backbones.module_code import code_digest
from densebench.backbones.private_copy import device_of, frozen, private_copy, unwrapped
from densebench.backbones.probing import find, isolated
from densebench.backbones.timm_loading import TIMM_CONVENTION, timm_backbone
from densebench.backbones.timm_models import is_plain_vit
from densebench.backbones.ways import Adapted, Call, NotRecognised, usual_calls
from densebench.backbones.weights import weights_digest
from densebench.console import notice
from densebench.errors import UserError
from densebench.torchvision_ops import make_importable

REMEDY = "give them by features=lambda m, x: ..., which returns [b d gh gw] or [b n d] for the module m and images x"
Features = Callable[[Any, Any], Any]


def adapt(
    model: Any,
    *,
    features: Features | None = None,
    mean: Any = None,
    std: Any = None,
    name: str = "",
    layer: str = "last",
    pos_embed: str = "auto",
) -> Backbone:
    """Return a private copy of a model as a backbone, on the CPU, float32, frozen, in evaluation mode.

    model: a module, or a function of images `[b 3 h w]`, which runs on copies of the modules that it holds. features: how to get
    patch features from the copy, instead of recognising it. mean, std: colour statistics of pixels from 0 to 1; else those that
    the model names, else ImageNet's. name: what tables call it. layer, pos_embed: as `load_backbone` describes them, for timm.
    Raises UserError for what cannot be copied or called, and for what gives no patch features that can be trusted.
    """
    if isinstance(model, types.MethodType) and isinstance(model.__self__, nn.Module) and features is None:
        model, features = model.__self__, model.__func__
    with isolated(torch.device("cpu")):
        backbone = _adapted(model, features, mean, std, layer, pos_embed)
    backbone.info = replace(backbone.info, kind="module", name=name)
    notice(backbone.info.recognised)
    return backbone


def _adapted(model: Any, features: Features | None, mean: Any, std: Any, layer: str, pos_embed: str) -> Backbone:
    title = title_of(model)
    copied, device, hooks = _copied(model, title, features)
    code = code_digest(copied, features)
    remark = f"; its forward hooks ({hooks}) are not run" if hooks else ""
    if features is None and is_timm_model(copied):
        backbone = from_timm_model(copied, title, layer, pos_embed, mean, std)
    elif layer != "last" or pos_embed != "auto":
        raise UserError(
            f"layer= and pos_embed= go with specs and timm's models, not with {title}; features= says how to get its features"
        )
    else:
        calls = usual_calls(copied) if features is None else [Call("features", features)]
        backbone = recognise(copied, f"module:{title}", title, calls=calls, device=device, mean=mean, std=std)
    backbone.info = replace(backbone.info, code=code, recognised=backbone.info.recognised + remark)
    return backbone


def renewed(backbone: Backbone, model: nn.Module) -> Backbone:
    """Return the backbone of a module of which `adapt` has made `backbone` before, with its present weights.

    Only what was recognised is kept; the module is copied anew, and nothing is probed or measured. The digest is the earlier one.
    """
    copied, _ = private_copy(model)
    trunk: nn.Module
    if isinstance(backbone.trunk, Adapted):
        trunk = Adapted(copied, backbone.trunk.source, backbone.trunk.name)
    else:
        _keep_table(copied)
        before: Any = backbone.trunk
        trunk = type(before)(copied, before.layers, before.convention)
    return Backbone(trunk, backbone.info, backbone.digest)


def title_of(model: Any) -> str:
    """Return what messages call a model: the class of a module, the name of a function."""
    if isinstance(model, nn.Module):
        return type(unwrapped(model)).__name__
    return str(getattr(model, "__name__", None) or type(model).__name__).strip("<>")


def recognise(
    model: nn.Module,
    spec: str,
    title: str,
    *,
    arch: str = "",
    calls: Sequence[Call] | None = None,
    device: torch.device | None = None,
    mean: Any = None,
    std: Any = None,
    remedy: str = REMEDY,
) -> Backbone:
    """Return the backbone of a module, which the caller must not use any more, from what it returns for a few images.

    calls: those to try; the first that gives patch features counts. device: where it is probed; the backbone is on the CPU.
    remedy: the end of the message where none does. Raises UserError there, and the module's own error where it takes no image.
    """
    statistics, words = _statistics(model, title, mean, std)
    model = frozen(model)
    digest = weights_digest(model)
    device = device or torch.device("cpu")
    try:
        source = find(model.to(device), usual_calls(model) if calls is None else calls, device)
    except NotRecognised as error:
        if error.error is not None and remedy != REMEDY:
            raise error.error from error
        raise UserError(f"{title} gives no patch features that can be used: {error}; {remedy}") from error
    layout = source.layout
    line = f"{title}: {source.words}; width {layout.dim}, stride {layout.stride}, {words}"
    info = BackboneInfo(spec, arch or title, layout.dim, layout.stride, *statistics, recognised=line)
    return Backbone(Adapted(model.to("cpu"), source, title), info, digest)


def _copied(model: Any, title: str, features: Features | None) -> tuple[nn.Module, torch.device, int]:
    """Return the private copy of a module or a function, where it is to be probed, and how many hooks it goes without."""
    if isinstance(model, nn.Module):
        check_own(unwrapped(model))
        if features is not None:
            check_features(features)
        copied, hooks = private_copy(model)
        return copied, device_of(model), hooks
    if not callable(model) or isinstance(model, type):
        kind = f"the class {title}, not an object" if isinstance(model, type) else f"of the class {title}"
        raise UserError(f"the model is {kind}; give a spec, a torch.nn.Module or a function of images")
    if features is not None:
        raise UserError(f"features= goes with a module, and {title} is a function; give the module that it calls")
    function = copied_function(model, title)
    return frozen(function), torch.device("cpu"), 0


def _statistics(model: Any, title: str, mean: Any, std: Any) -> tuple[tuple[Triple, Triple], str]:
    """Return the colour statistics that are given, else the model's own, else ImageNet's; and in words where they are from."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    found: list[Triple] = []
    origins = []
    values: Any
    for which, given, usual in (("mean", mean, IMAGENET_MEAN), ("std", std, IMAGENET_STD)):
        own = getattr(model, which, None)
        if given is not None:
            values, origin = colours(given, which), "the given"
        elif isinstance(own, tuple | list | Tensor | np.ndarray):
            values, origin = own, "its own"
        elif isinstance(config, dict) and config.get(which):
            values, origin = config[which], "its own"
        else:
            values, origin = usual, "ImageNet's"
        found.append(triple(values, f"{title}: its {which}" if origin == "its own" else which))
        origins.append(origin)
    _check_positive(found[1])
    words = f"{origins[0]} colour statistics" if len(set(origins)) == 1 else f"{origins[0]} mean and {origins[1]} std"
    return (found[0], found[1]), words


def colours(values: Any, which: str) -> Triple | None:
    """Return the given "mean" or "std" of colours, also of a text such as 0.485,0.456,0.406; None for None.

    Raises UserError as `triple` does, and for a deviation that is not above 0.
    """
    if values is None:
        return None
    found = triple(values.split(",") if isinstance(values, str) else values, which)
    if which == "std":
        _check_positive(found)
    return found


def _check_positive(std: Triple) -> None:
    if not all(value > 0 for value in std):
        raise UserError(f"std {std}: each must be above 0")


def triple(values: Any, what: str) -> Triple:
    """Return colour statistics as three plain numbers, whether they come as a tuple, an array or a buffer of any shape.

    Raises UserError for another number of them, and for those of pixels from 0 to 255.
    """
    try:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)
        numbers = [float(number) for number in array.flatten()]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} {values!r}: it takes three numbers, such as (0.485, 0.456, 0.406)") from error
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise UserError(f"{what} has {len(numbers)} numbers; it takes three, of pixels from 0 to 1: (0.485, 0.456, 0.406)")
    if max(numbers) > 10:
        raise UserError(f"{what} {tuple(numbers)} is of pixels from 0 to 255; divide it by 255")
    red, green, blue = numbers
    return red, green, blue


def is_timm_model(model: nn.Module) -> bool:
    """Return whether a model is of one of timm's own classes, whose features timm tells itself; none that replace its methods."""
    methods = {"forward", "forward_features", "forward_intermediates"}
    return (
        type(model).__module__.startswith("timm.models.")
        and hasattr(model, "forward_intermediates")
        and isinstance(getattr(model, "pretrained_cfg", None), dict)
        and not methods & vars(model).keys()
    )


def from_timm_model(model: Any, title: str, layer: str, pos_embed: str, mean: Any, std: Any) -> Backbone:
    """Return a copy of a timm model as the backbone that `timm:NAME` is, with its weights."""
    make_importable()
    _keep_table(model)
    (means, stds), words = _statistics(model, title, mean, std)
    arch = str(model.pretrained_cfg.get("architecture") or title)
    convention = TIMM_CONVENTION if pos_embed == "auto" else pos_embed
    try:
        backbone = timm_backbone(f"module:{title}", arch, model, layer, convention, "timm")
    except UserError:
        if layer != "last" or pos_embed != "auto":
            raise
        return recognise(model, f"module:{title}", title, arch=arch, mean=mean, std=std)  # made for another size than its name
    table = "" if backbone.pos_embed == "none" else f", positions {backbone.pos_embed}"
    line = f"{title}: read as timm:{arch} is, layer {layer}{table}; width {backbone.dim}, stride {backbone.stride}, {words}"
    return Backbone(backbone.trunk, replace(backbone.info, mean=means, std=stds, recognised=line), backbone.digest)


def _keep_table(model: Any) -> None:
    """Let timm's own code not resize the position table of a plain ViT, since the trunk does."""
    if is_plain_vit(model) and model.dynamic_img_size:
        model.dynamic_img_size, model.patch_embed.flatten = False, True
