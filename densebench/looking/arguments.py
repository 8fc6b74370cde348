"""The arguments of a look, checked before anything is opened or loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from densebench.backbones.loading import checked_label
from densebench.backbones.recognising import colours
from densebench.backbones.sources import check_form
from densebench.backbones.upsamplers import parsed
from densebench.errors import UserError
from densebench.evaluation.plan import Requested
from densebench.options import SWITCH, TEXT, WHOLE, check_types
from densebench.processes import resolve_device

LIMITS = {"count": (1, 200), "image_size": (32, 4096), "clusters": (2, 64), "seed": (0, 2**31 - 1)}
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Settings:
    """How pictures are chosen and looked at; see `densebench.look`."""

    count: int
    seed: int
    image_size: int
    clusters: int
    foreground: bool
    device: torch.device

    @property
    def size(self) -> str:
        """How pictures are resized, in words."""
        side = self.image_size
        return f"as many pixels as {side} x {side} px, aspect kept, each side a multiple of the backbone's stride"


def checked(count: int, seed: int, image_size: int, clusters: int, foreground: bool, device: str) -> Settings:
    """Return the settings. Raises UserError for a value of another type or beyond LIMITS."""
    check_types(SWITCH, foreground=foreground)
    check_types(TEXT, device=device)
    given = {"count": count, "seed": seed, "image_size": image_size, "clusters": clusters}
    check_types(WHOLE, **given)
    for name, value in given.items():
        least, most = LIMITS[name]
        if value is None or not least <= value <= most:
            raise UserError(f"--{name.replace('_', '-')} {value}: give a whole number from {least} to {most}")
    if device not in DEVICES:
        raise UserError(f"--device {device}: give {', '.join(DEVICES[:-1])} or {DEVICES[-1]}")
    return Settings(int(count), int(seed), int(image_size), int(clusters), foreground, resolve_device(device))


def several(value: Any) -> list[Any]:
    """Return a list or a tuple as a list, None as an empty one, anything else as a list of one."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def requested(
    models: Sequence[Any], weights: Sequence[Any], names: Sequence[Any], layers: Sequence[str], positions: Sequence[str],
    features: Any = None, mean: Any = None, std: Any = None, debias: int | None = None, upsample: str | None = None,
    **reading: Any,
) -> list[Requested]:  # fmt: skip
    """Return the backbones to look at, not loaded yet. Raises UserError for options of another number, and for a bad spec.

    weights, names: none, or one for each. layers, positions: one for all, or one for each.
    """
    if not models:
        raise UserError("name a backbone: --backbone SPEC, one or several; `densebench ls backbones` lists them")
    for option, values in (("--weights", weights), ("--name", names)):
        if len(values) not in (0, len(models)):
            raise UserError(f"{len(values)} {option} for {len(models)} backbones: give one for each, in their order, or none")
    for option, values in (("--layer", layers), ("--pos-embed", positions)):
        if len(values) not in (1, len(models)):
            raise UserError(f"{len(values)} {option} for {len(models)} backbones: give one for all, or one for each")
    for name in names:
        check_types(TEXT, name=name)
        checked_label(name)
    for model in models:
        if isinstance(model, str) and not os.path.exists(model):  # noqa: PTH110 (Path raises for a name that is too long)
            check_form(model)
    check_types(TEXT, upsample=upsample)
    check_types(WHOLE, debias=debias)
    if upsample is not None:
        parsed(upsample)
    of_modules = {"features": features, "mean": colours(mean, "mean"), "std": colours(std, "std")}
    changed = {**of_modules, "debias": debias, "upsample": upsample}
    shared = {**reading, **{key: value for key, value in changed.items() if value is not None}}

    def one(number: int) -> Requested:
        own: Mapping[str, Any] = {"layer": layers[number % len(layers)], "pos_embed": positions[number % len(positions)]}
        file, name = (values[number] if values else None for values in (weights, names))
        return Requested(models[number], file, name, {**shared, **own})

    return [one(number) for number in range(len(models))]
