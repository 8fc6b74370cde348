"""Every method of the catalogue, configured for steps that take a moment, with each path that its options can take.

What is small is derived from the options themselves, so that a new method needs nothing here; `HINTS` makes some smaller still.
"""

from __future__ import annotations

import functools

import torch
from small_runs import OWN, SMALL

from densebench import catalog, options
from densebench.datasets.unlabelled import open_images
from densebench.processes import World
from densebench.training import loop
from densebench.training.run import build

BATCH = 4
HINTS = {"reference_fraction": 0.2, "queue_size": 64, "batch_size": BATCH, "workers": 0, "keep": 9, "seed": 0}
ELSEWHERE = {"device", "compile", "lr_batch"}
"""Options that no variant flips: the device is what is compared, nothing is compiled on it, and a scale is no path."""
SHARED = {"cache", "decoder"}
"""Options of the loop around every method, which no method sees: they are flipped for the first method alone."""
TEXTS = {"probe": "scenes:4"}
"""Values to try of options that take a text, beside those that take `ckpt:DIR`."""


def tiny(method, preset, variant="official", **given):
    """Return small values of a preset's options by name, and those that are given."""
    kind = catalog.load("methods", method, preset)
    chosen, small = build(kind, method, preset, variant, None, {"device": "cpu"}), {}
    hints = {**SMALL, **OWN.get(method, {}), **HINTS}
    for flag in options.flags(kind):
        value = getattr(chosen, flag.name)
        if flag.name in hints and not (flag.name == "local_crops" and not value):
            small[flag.name] = hints[flag.name]
        elif (size := _small(flag, value)) is not None:
            small[flag.name] = size
    return {**small, "precision": chosen.precision, "steps": 3, **given}  # as on the CPU: a GPU would choose another


def _small(flag, value):
    """Return a small value of an option; None where the present one can stay."""
    if type(value) not in (int, float) or flag.kind != "setting" or flag.name in ("epochs", "lr_batch"):
        return None
    if "epochs" in flag.help:  # so that what begins late begins in the second step
        return min(value, type(value)(1))
    if flag.name == "group_size":
        return min(value, BATCH // 2)
    if flag.name.endswith("_dim") or flag.help.endswith("px"):
        return min(value, 32)
    return None


@functools.cache
def paths(method):
    """Return the ways to run a method, by name, as arguments of `assembled`: presets, both variants, then every other switch."""
    entry, found, taken = catalog.find("methods", method), {}, []
    for preset in entry.all_presets:
        kind = catalog.load("methods", method, preset)
        for variant in ("official", "paper"):
            chosen = build(kind, method, preset, variant, None, tiny(method, preset, variant))
            path = {flag.name: _path(flag, getattr(chosen, flag.name)) for flag in options.flags(kind)}
            if path not in taken:
                found[f"{preset} {variant}"] = {"preset": preset, "variant": variant}
                taken.append(path)
    kind = catalog.load("methods", method, entry.presets[0])
    first = build(kind, method, entry.presets[0], "official", None, tiny(method, entry.presets[0]))
    is_first = method == next(iter(catalog.entries("methods")))
    for flag in options.flags(kind):
        if flag.name in SHARED and not is_first:
            continue
        for value in _others(flag, getattr(first, flag.name)):
            if all(path.get(flag.name) != _path(flag, value) for path in taken):
                found[f"{flag.name} {value}"] = {flag.name: value}
    return {**found, "accumulate 2": {"accumulate": 2}}


def _path(flag, value):
    """Return what of a value decides which code runs: a choice, or whether something is switched off."""
    return value if flag.choices or isinstance(value, bool | str) else bool(value)


def _others(flag, value):
    """Return the other values of a switch; of an option that 0 switches off, one that is on, or 0."""
    if flag.name in ELSEWHERE:
        return []
    if flag.choices:
        return [choice for choice in flag.choices if choice not in (str(value), "auto")]
    if isinstance(value, bool):
        return [not value]
    if flag.name in TEXTS:
        return [TEXTS[flag.name]]
    if flag.help.startswith("ckpt:"):
        return ["ckpt:"]
    if type(value) in (int, float) and ("; 0: " in flag.help or "0 switches it off" in flag.help):
        return [type(value)(0)] if value else [max(type(value)(1), type(value)(BATCH // 2) if type(value) is int else 0.3)]
    return []


def assembled(method, device, preset=None, variant="official", **given):
    """Return a training in memory, at step 0."""
    preset = preset or catalog.find("methods", method).presets[0]
    kind = catalog.load("methods", method, preset)
    chosen = build(kind, method, preset, variant, None, {**tiny(method, preset, variant), "device": device, **given})
    torch.manual_seed(0)
    images = open_images(("scenes",), None, 2 * BATCH)
    return loop.assemble(chosen, chosen.encoder(), images, 0, World(0, 1, torch.device(device)))
