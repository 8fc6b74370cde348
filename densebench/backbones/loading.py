"""`load_backbone`: from a spec to a backbone."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from densebench.backbones.adapters import adapt_module
from densebench.backbones.backbone import Backbone
from densebench.backbones.checkpoint import FACTS
from densebench.backbones.debiased import debiased
from densebench.backbones.position import check_convention
from densebench.backbones.recognising import adapt, colours, title_of
from densebench.backbones.sources import FILE, GROUP, SOURCES, unrecognised
from densebench.backbones.upsampled import upsampled
from densebench.backbones.weights import ROLES
from densebench.console import one_line
from densebench.errors import UserError, unknown
from densebench.options import PATH, TEXT, WHOLE, check_run, check_types
from densebench.torchvision_ops import make_importable
from densebench.user_code import guarded, plugin_code

WEIGHT_FILES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


def load_backbone(
    model: Any,
    *,
    weights: str | Path | None = None,
    layer: str = "last",
    pos_embed: str = "auto",
    role: str = "teacher",
    seed: int = 0,
    features: Callable[[Any, Any], Any] | None = None,
    mean: Any = None,
    std: Any = None,
    name: str | None = None,
    debias: int | None = None,
    upsample: str | None = None,
) -> Backbone:
    """Load a backbone on the CPU, float32, frozen, in evaluation mode; the object that is given stays as it is.

    model: a form of `sources()` or PLUGIN:NAME; the path of a Python file or a checkpoint's folder; a module, of timm, of
    transformers or your own, in which patch features are recognised (`recognising.adapt`); a function of images; or a backbone.
    weights: a file for timm:NAME. layer: "last", numbers of blocks or stages from 0 ("8,9,10,11", joined over channels), "raw" (a
    ViT's last block before the final norm), its "query", "key" or "value", or "attention" of its class token. pos_embed: "auto"
    resizes position tables as the code that the weights come from does; or "antialias", "plain", "offset". role: the branch of a
    checkpoint, "teacher" or "student". seed: of the weights of random:NAME. features: for modules, as `adapt` describes it. mean,
    std: colour statistics of pixels from 0 to 1, three numbers each, also as a text such as "0.485,0.456,0.406"; without them a
    checkpoint's are those of its training, a module's as `adapt` says, and those of timm:NAME as `timm_loading.trained_with`
    says. name: what tables call it. debias: how many positional directions are projected out of the features, see `debiased`.
    upsample: by what the grid of features is then made finer, NAME[:FACTOR], see `upsampled`.
    Raises UserError for an unknown name or option, for weights that do not match or cannot be read or fetched, and for a module
    whose patch features are not recognised.
    """
    check_types(TEXT, upsample=upsample)
    check_types(WHOLE, debias=debias)
    reading = {"layer": layer, "pos_embed": pos_embed, "role": role, "seed": seed, "mean": mean, "std": std}
    backbone = _loaded(model, weights=weights, features=features, name=name, **reading)
    backbone = backbone if debias is None else debiased(backbone, debias)
    return backbone if upsample is None else upsampled(backbone, upsample)


def _loaded(
    model: Any, *, weights: str | Path | None, layer: str, pos_embed: str, role: str, seed: int,
    features: Callable[[Any, Any], Any] | None, mean: Any, std: Any, name: str | None,
) -> Backbone:  # fmt: skip
    """Return the backbone as it is, its features unchanged."""
    check_types(TEXT, layer=layer, pos_embed=pos_embed, role=role, name=name)
    check_types(PATH, weights=weights)
    if role not in ROLES:
        raise unknown("role", role, ROLES, f"it is {' or '.join(ROLES)}")
    check_convention(pos_embed)
    check_run(seed, None)
    seed = int(seed or 0)
    label = checked_label(name)
    if isinstance(model, Backbone):
        given = {"weights": weights, "features": features, "mean": mean, "std": std}
        _refuse(given, f"with {model.spec}, which is a backbone already")
        _refuse(_changed(layer, pos_embed, role, seed), f"with {model.spec}, which is a backbone already")
        return model if not label else _renamed(model, label)
    if not isinstance(model, str | Path):
        _refuse({"weights": weights}, "with a spec timm:NAME; load them into the module that you give")
        changed = _changed("last", "auto", role, seed)
        _refuse(changed, f"with specs, not with the {title_of(model)} that is given")
        return adapt(model, features=features, mean=mean, std=std, name=label, layer=layer, pos_embed=pos_embed)
    spec = _spelled(model)
    _refuse({"features": features}, f"with a module, not with the spec {spec}; wrap it in a file ./mine.py")
    statistics = {"mean": colours(mean, "mean"), "std": colours(std, "std")}
    kind, rest, make, code = _source(spec)
    takes = inspect.signature(make).parameters
    if weights is not None and "weights" not in takes:
        raise UserError(f"--weights {weights} goes with --backbone timm:NAME, not with {spec}")
    if layer != "last" and "layer" not in takes:
        raise UserError(f"--layer {layer} goes with timm:, random: and ckpt: backbones; {spec} has no choice of layers")
    if "mean" not in takes:
        _refuse(statistics, f"with a module, or with timm:, random: and ckpt: backbones; {spec} names its own")
    file = None if weights is None else Path(weights)
    options = {"weights": file, "layer": layer, "pos_embed": pos_embed, "role": role, "seed": seed, **statistics}
    backbone = make(rest, **{option: value for option, value in options.items() if option in takes})
    backbone.info = replace(backbone.info, kind=kind, code=code or backbone.info.code, name=label)
    return backbone


def checked_label(name: str | None) -> str:
    """Return the name that tables give to a backbone, "" for None. Raises UserError for a name that would break a table."""
    if name is not None and (not name.strip() or name != one_line(name)):
        raise UserError(f"--name {name!r} is empty or holds a line break or another control character; leave it out")
    return name or ""


def _changed(layer: str, pos_embed: str, role: str, seed: int) -> dict[str, Any]:
    """Return the options that are not at their defaults."""
    defaults = {"layer": "last", "pos_embed": "auto", "role": "teacher", "seed": 0}
    given = {"layer": layer, "pos_embed": pos_embed, "role": role, "seed": seed}
    return {option: value for option, value in given.items() if value != defaults[option]}


def _refuse(given: Mapping[str, Any], where: str) -> None:
    """Raise UserError for the first option that has a value."""
    for option, value in given.items():
        if value is not None:
            shown = value if isinstance(value, str | int | Path) else "..."
            raise UserError(f"{option}={shown} goes {where}")


def _renamed(backbone: Backbone, name: str) -> Backbone:
    named = copy.copy(backbone)
    named.info = replace(backbone.info, name=name)
    return named


def _spelled(model: str | Path) -> str:
    """Return the spec of a text or a path: the folder of a checkpoint goes by its path alone, like a Python file."""
    spec = str(model)
    if os.path.isfile(os.path.join(spec, FACTS)):  # noqa: PTH113, PTH118 - a spec of any length is no error here
        return f"ckpt:{spec}"
    if isinstance(model, Path) and model.suffix in WEIGHT_FILES:
        raise UserError(
            f"{spec} holds weights; name the architecture, and give them by weights=: load_backbone('timm:NAME', ...)"
        )
    return spec


def _source(spec: str) -> tuple[str, str, Callable[..., Backbone], str]:
    """Return the kind of a spec, the name in it, the function that makes the backbone, and the digest of a plug-in's code."""
    kind, _, name = spec.partition(":")
    if kind in SOURCES and kind != FILE and name:
        return kind, name, _imported(SOURCES[kind].maker), ""
    if spec.endswith(".py"):  # checked after those above: a stored file may name ckpt:x.py, which must not be run
        return FILE, spec, _imported(SOURCES[FILE].maker), ""
    for point in importlib.metadata.entry_points(group=GROUP, name=kind):
        make_importable()
        with guarded(spec, "on import"):
            make = point.load()
        return f"plugin:{point.name}", name, _adapting(make, spec), plugin_code(point)
    raise unrecognised(spec)


def _imported(path: str) -> Callable[..., Backbone]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _adapting(make: Callable[..., Any], spec: str) -> Callable[..., Backbone]:
    """Return a plug-in's function, wrapped so that it returns a Backbone."""

    @functools.wraps(make)
    def adapted(name: str, **options: Any) -> Backbone:
        with guarded(spec, "when it is loaded"):
            model = make(name, **options)
        return adapt_module(model, spec, spec)

    return adapted
