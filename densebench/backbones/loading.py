"""`load_backbone`: from a spec to a backbone."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from densebench.backbones.adapters import Adapted, Found, from_file, from_hub, from_transformers
from densebench.backbones.backbone import Backbone, Facts, measure
from densebench.backbones.checkpoint import WEIGHTS, read_checkpoint
from densebench.backbones.pixels import Pixels
from densebench.backbones.position import check_convention, convention_of
from densebench.backbones.sources import sources
from densebench.backbones.timm_models import Trunk, create, is_plain_vit, probe, trunk_of
from densebench.backbones.weights import Weights, load_into, read_weights, weights_digest
from densebench.console import notice
from densebench.errors import UserError, out_of_memory, unknown
from densebench.options import check_run
from densebench.torchvision_ops import make_importable
from densebench.user_code import file_code, plugin_code

GROUP = "densebench.backbones"


def load_backbone(
    spec: str,
    *,
    weights: Path | None = None,
    layer: str = "last",
    pos_embed: str = "auto",
    role: str = "teacher",
    seed: int = 0,
) -> Backbone:
    """Load a backbone on the CPU, float32, frozen, in evaluation mode.

    spec: one of `sources()`. weights: a file for timm:NAME. layer: "last", numbers of blocks or stages from 0 ("8,9,10,11",
    joined over channels), or "query", "key", "value" of the last block, or "attention" of its class token. pos_embed: "auto"
    resizes position tables as the code that the weights come from does; or "antialias", "plain", "offset".
    role: the branch of a checkpoint. seed: of random: weights.
    Raises UserError for what is unknown, does not match, cannot be read or cannot be fetched.
    """
    check_convention(pos_embed)
    check_run(seed, None)
    kind, _, name = spec.partition(":")
    if weights is not None and kind != "timm":
        raise UserError(f"--weights {weights} goes with --backbone timm:NAME, not with {spec}")
    if kind == "timm" and name:
        return _from_timm(spec, name, weights, layer, pos_embed, role)
    if kind == "random" and name:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = create(name, probe(name))
        return _timm_backbone(spec, name, model, layer, "antialias" if pos_embed == "auto" else pos_embed, f"seed {seed}", kind)
    if kind == "ckpt" and name:
        return _from_checkpoint(spec, Path(name), layer, pos_embed)
    if spec.endswith(".py"):  # after those above, whose names may come from a stored file, which must not be run
        return _adapted(from_file(spec), spec, layer, "file", file_code(Path(spec)))
    makers: dict[str, Callable[[str], Found]] = {"hub": from_hub, "hf": from_transformers}
    if kind in makers and name:
        return _adapted(found := makers[kind](name), spec, layer, kind, found.code)
    if kind == "pixels" and name:
        return _pixels(spec, name, layer)
    for point in importlib.metadata.entry_points(group=GROUP, name=kind):
        make_importable()
        return _adapted(point.load()(name), spec, layer, f"plugin:{point.name}", plugin_code(point))
    kinds = [form.partition(":")[0] for form in sources() if ":" in form]
    raise unknown("backbone", spec, [f"{known}:{name}" for known in kinds], f"a spec is one of {', '.join(sources())}")


def _from_timm(spec: str, name: str, path: Path | None, layer: str, pos_embed: str, role: str) -> Backbone:
    like = probe(name)
    if path is None:
        model = create(name, like, pretrained=True)
        return _timm_backbone(spec, name, model, layer, "antialias" if pos_embed == "auto" else pos_embed, "timm", "timm")
    weights = read_weights(path, like.state_dict().keys(), role)
    model = _filled(name, like, weights)
    convention = convention_of(weights.origin) if pos_embed == "auto" else pos_embed
    return _timm_backbone(f"{spec} {path.name}", name, model, layer, convention, weights.origin, "timm")


def _filled(name: str, like: Any, weights: Weights) -> nn.Module:
    has_token = getattr(like, "cls_token", None) is not None
    class_token = not has_token or "cls_token" in weights.tensors
    prefix = 1 if has_token and class_token and is_plain_vit(like) and not _lacks_class_position(like, weights) else 0
    model = create(name, like, patches=weights.patches(prefix), class_token=class_token)
    report = load_into(model, weights)
    notice(str(report))
    return model


def _lacks_class_position(like: Any, weights: Weights) -> bool:
    """Whether a model with registers meets a table that timm has stripped of the class token's position already."""
    table = weights.tensors.get("pos_embed")
    return bool(like.no_embed_class) and table is not None and round(table.shape[1] ** 0.5) ** 2 == table.shape[1]


def _from_checkpoint(spec: str, folder: Path, layer: str, pos_embed: str) -> Backbone:
    facts = read_checkpoint(folder)
    like = probe(facts["arch"])
    weights = read_weights(folder / WEIGHTS, like.state_dict().keys())
    convention = facts.get("pos_embed", "antialias") if pos_embed == "auto" else pos_embed
    origin = str(facts.get("method", "densebench"))
    return _timm_backbone(spec, facts["arch"], _filled(facts["arch"], like, weights), layer, convention, origin, "ckpt")


def _timm_backbone(spec: str, arch: str, model: Any, layer: str, convention: str, origin: str, kind: str) -> Backbone:
    digest = weights_digest(model)
    config = model.pretrained_cfg
    trunk = trunk_of(model.eval(), layer, convention)
    side = 2 * model.patch_embed.patch_size[0] if trunk.has_table else config["input_size"][-1]
    if not trunk.has_table:
        side -= side % model.feature_info[-1]["reduction"] if model.feature_info else 0
    dim, stride = _measured(trunk, side, arch)
    used = convention if trunk.has_table else "antialias" if getattr(model, "pos_embed", None) is not None else "none"
    facts = Facts(spec, arch, dim, stride, tuple(config["mean"]), tuple(config["std"]), layer, used, origin, kind)
    return Backbone(trunk, facts, digest)


def _measured(trunk: Trunk, side: int, arch: str) -> tuple[int, int]:
    """Return the width and stride of a timm model. Raises UserError where it has no patch features that can be read."""
    try:
        return measure(trunk, side)
    except (AssertionError, IndexError, RuntimeError, ValueError, UserError) as error:
        if out_of_memory(error):
            raise
        cause = error.__cause__ or error
        reason = (str(cause) or type(cause).__name__).splitlines()[0]
        raise UserError(f"{arch} gives no patch features of {side} x {side} px ({reason}); use another backbone") from error


def _adapted(found: Adapted, spec: str, layer: str, kind: str, code: str) -> Backbone:
    if layer != "last":
        raise UserError(f"--layer {layer} goes with timm:, random: and ckpt: backbones; {spec} gives the layer that it gives")
    if isinstance(found, Backbone):
        found.facts = replace(found.facts, kind=kind, code=code)
        return found
    facts = Facts(spec, found.arch, found.dim, found.stride, found.mean, found.std, kind=kind, code=code)
    return Backbone(found.trunk, facts, weights_digest(found.trunk))


def _pixels(spec: str, name: str, layer: str) -> Backbone:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", name):  # one spelling for a size: specs name backbones in tables
        raise UserError(f"{spec}: it takes the side of a patch in px, from 1 to 9999, such as pixels:16")
    if layer != "last":
        raise UserError(f"--layer {layer} goes with models; {spec} has pixels only")
    trunk = Pixels(int(name))
    return Backbone(trunk, Facts(spec, "pixels", 3 * int(name) ** 2, int(name), kind="pixels"), weights_digest(trunk))
