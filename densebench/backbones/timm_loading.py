"""timm models as backbones: with timm's pretrained weights, with a file's, or as initialised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from densebench.backbones.backbone import Backbone, BackboneInfo, measure
from densebench.backbones.position import convention_of
from densebench.backbones.timm_models import TimmTrunk, create, is_plain_vit, make_trunk, probe
from densebench.backbones.weights import Weights, load_into, read_weights, weights_digest
from densebench.console import notice
from densebench.errors import UserError, out_of_memory

TIMM_CONVENTION = "antialias"
"""How timm resizes position tables."""


def from_timm(name: str, weights: Path | None, layer: str, pos_embed: str, role: str) -> Backbone:
    """Return a timm model with its pretrained weights, or with those of a file."""
    like = probe(name)
    if weights is None:
        model = create(name, like, pretrained=True)
        return timm_backbone(f"timm:{name}", name, model, layer, TIMM_CONVENTION if pos_embed == "auto" else pos_embed, "timm")
    read = read_weights(weights, like.state_dict().keys(), role)
    convention = convention_of(read.origin) if pos_embed == "auto" else pos_embed
    return timm_backbone(f"timm:{name} {weights.name}", name, filled(name, like, read), layer, convention, read.origin)


def from_random(name: str, layer: str, pos_embed: str, seed: int) -> Backbone:
    """Return a timm model as it is initialised with a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create(name, probe(name))
    return timm_backbone(
        f"random:{name}", name, model, layer, TIMM_CONVENTION if pos_embed == "auto" else pos_embed, f"seed {seed}"
    )


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


def timm_backbone(spec: str, arch: str, model: Any, layer: str, convention: str, origin: str) -> Backbone:
    """Return a timm model as a backbone. convention: how its position table is resized; origin: whose layout its weights had."""
    digest = weights_digest(model)
    config = model.pretrained_cfg
    trunk = make_trunk(model.eval(), layer, convention)
    side = 2 * model.patch_embed.patch_size[0] if trunk.has_table else config["input_size"][-1]
    if not trunk.has_table:
        side -= side % model.feature_info[-1]["reduction"] if model.feature_info else 0
    dim, stride = _measured(trunk, side, arch)
    used = convention if trunk.has_table else TIMM_CONVENTION if getattr(model, "pos_embed", None) is not None else "none"
    info = BackboneInfo(spec, arch, dim, stride, tuple(config["mean"]), tuple(config["std"]), layer, used, origin)
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
