"""timm models as backbones: with timm's pretrained weights, with a file's, or as initialised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from densebench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneInfo, Triple, measure
from densebench.backbones.position import convention_of
from densebench.backbones.timm_models import TimmTrunk, create, is_plain_vit, make_trunk, probe
from densebench.backbones.weights import Weights, load_into, read_weights, weights_digest
from densebench.console import notice
from densebench.errors import UserError, out_of_memory

TIMM_CONVENTION = "antialias"
"""How timm resizes position tables."""
HALF = (0.5, 0.5, 0.5)
"""Mean and deviation that timm names for the plain ViTs of Google, in whose shape the weights of many projects are loaded."""


def from_timm(
    name: str,
    weights: Path | None,
    layer: str,
    pos_embed: str,
    role: str,
    mean: Triple | None = None,
    std: Triple | None = None,
) -> Backbone:
    """Return a timm model with its pretrained weights, or with those of a file.

    mean, std: colour statistics; None: timm's for its own weights, those of `trained_with` for a file.
    """
    like = probe(name)
    if weights is None:
        model = create(name, like, pretrained=True)
        convention = TIMM_CONVENTION if pos_embed == "auto" else pos_embed
        return timm_backbone(f"timm:{name}", name, model, layer, convention, "timm", mean, std)
    read = read_weights(weights, like.state_dict().keys(), role)
    convention = convention_of(read.origin) if pos_embed == "auto" else pos_embed
    model = filled(name, like, read)
    if mean is None or std is None:
        means, stds = trained_with(name, like, read)
        mean, std = mean or means, std or stds
    return timm_backbone(f"timm:{name} {weights.name}", name, model, layer, convention, read.origin, mean, std)


def from_random(
    name: str, layer: str, pos_embed: str, seed: int, mean: Triple | None = None, std: Triple | None = None
) -> Backbone:
    """Return a timm model as it is initialised with a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create(name, probe(name))
    convention = TIMM_CONVENTION if pos_embed == "auto" else pos_embed
    return timm_backbone(f"random:{name}", name, model, layer, convention, f"seed {seed}", mean, std)


def trained_with(name: str, like: Any, weights: Weights) -> tuple[Triple, Triple]:
    """Return mean and deviation of the colours that the weights of a file were trained with. `like`: the probe of `name`.

    They are ImageNet's where the layout is that of a project of `position.BY_ORIGIN`, all of which train with these, and timm
    names 0.5 for the architecture; else those that timm names. A tag in the name (vit_small_patch16_224.augreg_in1k) chooses
    timm's. A notice says what is taken where timm's 0.5 are wrong or may be.
    """
    config = like.pretrained_cfg
    own = tuple(config["mean"]), tuple(config["std"])
    normed_before = not isinstance(getattr(like, "norm_pre", None), nn.Identity | None)  # CLIP's shape; no such project has it
    if "." in name or own != (HALF, HALF) or normed_before:
        return own
    imagenet = "--mean {},{},{} --std {},{},{}".format(*IMAGENET_MEAN, *IMAGENET_STD)
    if weights.origin != "timm":
        what = f"its layout is that of {weights.origin}, so images are normalised with ImageNet's colour statistics"
        remedy = f"--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 chooses those that timm names for {name}"
        notice(f"{weights.path.name}: {what}; {remedy}")
        return IMAGENET_MEAN, IMAGENET_STD
    if weights.branch:
        what = f"images are normalised with the 0.5 that timm names for {name}"
        notice(f"{weights.path.name}: {what}; for weights that were trained with ImageNet's colour statistics, add {imagenet}")
    return own


def filled(name: str, like: Any, weights: Weights) -> nn.Module:
    """Return a timm model with weights from a file, whose position table and class token it takes over. `like`: its probe."""
    has_token = getattr(like, "cls_token", None) is not None
    class_token = not has_token or "cls_token" in weights.tensors
    prefix = 1 if has_token and class_token and is_plain_vit(like) and not _lacks_class_position(like, weights) else 0
    model = create(name, like, patches=weights.patches(prefix), class_token=class_token)
    report = load_into(model, weights)
    notice(str(report))
    return model


def _lacks_class_position(like: Any, weights: Weights) -> bool:
    """Return whether timm has already taken the class token's position out of the table of a model with registers."""
    table = weights.tensors.get("pos_embed")
    return bool(like.no_embed_class) and table is not None and round(table.shape[1] ** 0.5) ** 2 == table.shape[1]


def timm_backbone(
    spec: str,
    arch: str,
    model: Any,
    layer: str,
    convention: str,
    origin: str,
    mean: Triple | None = None,
    std: Triple | None = None,
) -> Backbone:
    """Return a timm model as a backbone.

    convention: how its position table is resized; origin: whose layout its weights had; mean, std: colour statistics, None for
    those that timm names for the architecture.
    """
    digest = weights_digest(model)
    config = model.pretrained_cfg
    trunk = make_trunk(model.eval(), layer, convention)
    side = 2 * model.patch_embed.patch_size[0] if trunk.has_table else config["input_size"][-1]
    if not trunk.has_table:
        side -= side % model.feature_info[-1]["reduction"] if model.feature_info else 0
    dim, stride = _measured(trunk, side, arch)
    used = convention if trunk.has_table else TIMM_CONVENTION if getattr(model, "pos_embed", None) is not None else "none"
    statistics = tuple(mean or config["mean"]), tuple(std or config["std"])
    info = BackboneInfo(spec, arch, dim, stride, *statistics, layer, used, origin)
    return Backbone(trunk, info, digest)


def _measured(trunk: TimmTrunk, side: int, arch: str) -> tuple[int, int]:
    """Return the width and stride of a timm model. Raises UserError where it has no patch features that can be read."""
    try:
        return measure(trunk, side)
    except (AssertionError, IndexError, RuntimeError, ValueError, UserError) as error:
        if out_of_memory(error):
            raise
        cause = error.__cause__ or error
        reason = (str(cause) or type(cause).__name__).splitlines()[0]
        raise UserError(f"{arch} gives no patch features of {side} x {side} px ({reason}); use another backbone") from error
