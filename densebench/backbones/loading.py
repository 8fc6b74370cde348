"""`load_backbone`: from a spec to a backbone."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from densebench.backbones.adapters import adapt_module
from densebench.backbones.backbone import Backbone
from densebench.backbones.position import check_convention
from densebench.backbones.sources import FILE, GROUP, SOURCES, unrecognised
from densebench.errors import UserError
from densebench.options import check_run
from densebench.torchvision_ops import make_importable
from densebench.user_code import guarded, plugin_code


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

    spec: a form of `sources()`, or PLUGIN:NAME. weights: a file for timm:NAME. layer: "last", numbers of blocks or stages from 0
    ("8,9,10,11", joined over channels), "query", "key" or "value" of the last block, or "attention" of its class token.
    pos_embed: "auto" resizes position tables as the code that the weights come from does; or "antialias", "plain", "offset".
    role: the branch of a checkpoint, "teacher" or "student". seed: of the weights of random:NAME.
    Raises UserError for an unknown name or option, and for weights that do not match or cannot be read or fetched.
    """
    check_convention(pos_embed)
    check_run(seed, None)
    kind, name, make, code = _source(spec)
    takes = inspect.signature(make).parameters
    if weights is not None and "weights" not in takes:
        raise UserError(f"--weights {weights} goes with --backbone timm:NAME, not with {spec}")
    if layer != "last" and "layer" not in takes:
        raise UserError(f"--layer {layer} goes with timm:, random: and ckpt: backbones; {spec} has no choice of layers")
    options = {"weights": weights, "layer": layer, "pos_embed": pos_embed, "role": role, "seed": seed}
    backbone = make(name, **{option: value for option, value in options.items() if option in takes})
    backbone.info = replace(backbone.info, kind=kind, code=code or backbone.info.code)
    return backbone


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
