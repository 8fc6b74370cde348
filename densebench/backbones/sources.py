"""The sources of backbones: what a spec may be, and the function that makes a backbone of it.

A source is one entry of SOURCES, or an installed plug-in (entry-point group `densebench.backbones`) whose name is the part of the
spec before the colon. Its function takes the part after the colon, and by keyword those of weights, layer, pos_embed, role and
seed that it names, as `load_backbone` describes them. It returns a `Backbone`; a plug-in's may also return a module
`[b 3 h w] -> [b d gh gw]`, whose width and stride are then measured.
"""

from __future__ import annotations

import importlib.metadata
from typing import NamedTuple

from densebench.errors import UserError, unknown

GROUP = "densebench.backbones"
FILE = "file"  # the source that is named by a path, without a colon


class Source(NamedTuple):
    """form: how the spec is written. title: what it means. maker: the function, as module:name; imported when it is needed."""

    form: str
    title: str
    maker: str


SOURCES = {
    "timm": Source(
        "timm:NAME", "a timm model, with its pretrained weights or those of --weights FILE", f"{GROUP}.timm_loading:from_timm"
    ),
    "random": Source("random:NAME", "the same architecture as initialised with --seed", f"{GROUP}.timm_loading:from_random"),
    "ckpt": Source("ckpt:DIR", "what `densebench pretrain` wrote", f"{GROUP}.checkpoint:from_checkpoint"),
    "hub": Source("hub:REPO:ENTRY", "a torch hub entry, or a local folder with a hubconf.py", f"{GROUP}.adapters:from_hub"),
    "hf": Source("hf:REPO", "a transformers model (pip install 'densebench[hf]')", f"{GROUP}.adapters:from_transformers"),
    "pixels": Source("pixels:STRIDE", "the pixels of each patch: the baseline without a model", f"{GROUP}.adapters:from_pixels"),
    FILE: Source("./file.py", "a Python file with a function load() that returns a module", f"{GROUP}.adapters:from_file"),
}


def check_form(spec: str) -> None:
    """Raise UserError for a spec that names no source. Whether there is such a model is seen when it is loaded."""
    kind, _, name = spec.partition(":")
    is_built_in = kind in SOURCES and kind != FILE and bool(name)
    if not (is_built_in or spec.endswith(".py") or importlib.metadata.entry_points(group=GROUP, name=kind)):
        raise unrecognised(spec)


def unrecognised(spec: str) -> UserError:
    """Return the error for a spec that names no source."""
    forms = [source.form for source in SOURCES.values()]
    _, _, name = spec.partition(":")
    return unknown(
        "backbone", spec, [f"{known}:{name}" for known in SOURCES if known != FILE], f"a spec is one of {', '.join(forms)}"
    )


def sources() -> dict[str, str]:
    """Return the form of every built-in source and what it means. Imports nothing."""
    return {source.form: source.title for source in SOURCES.values()}
