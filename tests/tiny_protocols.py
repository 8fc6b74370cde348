"""Every protocol of the catalogue, configured for a run of seconds on a made-up data set of the kind that it takes."""

from __future__ import annotations

import drawn_objects
import drawn_parts
import pytest
import toy_boxes
from filmed import write

from densebench import catalog, options
from densebench.backbones.loading import load_backbone
from densebench.conformance.drawn import drawn
from densebench.datasets import load_dataset
from densebench.errors import UserError

TINY = {
    "image_size": drawn_parts.SIDE, "seeds": 1, "iterations": 2, "epochs": 1, "crop_size": 32, "train_batch": 2,
    "neighbours": (3,), "foreground_clusters": 10, "community_clusters": 5, "cut": "0.3", "whole_batches": 2, "width": 8,
    "resolution": 1.0, "regions": 8, "detections": 10, "short_side": 80, "workers": 0, "device": "cpu", "learning_rates": (1e-3,),
    "restarts": 1, "l2": (1e-3,), "gpus": 1, "pca": 12, "validations": 1,
    "stride": 16, "corruptions": ("contrast", "gaussian-noise"), "levels": (1, 4),
}  # fmt: skip
PRESETS = [
    pytest.param(name, preset, marks=[] if preset == part.presets[0] else [pytest.mark.slow])
    for name, entry in catalog.entries("protocols").items()
    for part in (entry, *entry.others)
    for preset in part.presets
]


def tiny(name, preset, tmp_path, frames=4, **more):
    """A protocol with small options where it has them, and those that are given, resolved; a backbone and data that fit it."""
    kind = catalog.load("protocols", name, preset)
    if kind.takes == "boxes":
        masked = "model" in {flag.name for flag in options.flags(kind)}
        dataset = drawn_objects.Drawn(root=tmp_path) if masked else toy_boxes.DATA
        backbone = drawn_objects.small_vit(dim=16) if masked else toy_boxes.backbone()
        given = {} if masked else {"image_size": toy_boxes.SIDE, "short_side": 36}
    elif kind.takes == "keypoint pairs":
        dataset, backbone, given = drawn("keypoint pairs")[0], load_backbone("pixels:8"), {"image_size": 64}
    elif kind.takes == "videos":
        write(tmp_path / "videos", "boat", frames, 1)
        dataset, backbone = load_dataset(f"frames:{tmp_path / 'videos'}", None), load_backbone("pixels:8")
        given = {"short_side": 64}
    elif kind.takes == "view pairs":
        dataset, backbone, given = load_dataset("scenes-views"), load_backbone("pixels:8"), {"image_size": 64}
    else:
        dataset, backbone, given = drawn_parts.DATA, drawn_parts.seeing(), {}
    values = {**TINY, **given}
    if kind.presets[preset].get("resize") == "native":
        values.pop("image_size")
    known = {flag.name: flag for flag in options.flags(kind)}
    small = {name: value for name, value in values.items() if name in known and fits(known[name], value)}
    evaluator = options.build(kind, kind.presets[preset], {**small, **more})
    return evaluator.resolve(dataset), backbone, dataset


def fits(flag, value):
    """Whether an option takes a value: a plug-in may call something else by the same name."""
    try:
        flag.read(value)
    except UserError:
        return False
    return True


SHARED = {"decoder": (), "precision": ("bf16",)}
"""Options of the extraction, which no protocol sees, and the values that are tried for another protocol than the first."""


def paths(name):
    """Return the ways to run a protocol, by name, as further arguments of `tiny`: every preset, then every other switch."""
    entry, found = catalog.find("protocols", name), {}
    is_first = name == next(iter(catalog.entries("protocols")))
    for part in entry.parts:
        kind = catalog.load("protocols", name, part.presets[0])
        found |= {preset: {"preset": preset} for preset in part.presets}
        for flag in options.flags(kind):
            tried = [kind.presets[preset].get(flag.name, flag.default) for preset in part.presets]
            for value in _others(flag, tried[0]):
                if value not in tried and (is_first or value in SHARED.get(flag.name, (value,))):
                    found[f"{part.presets[0]} {flag.name} {value}"] = {"preset": part.presets[0], flag.name: value}
    return found


def _others(flag, value):
    """Return the other values of a switch."""
    if flag.name in ("device", "keep_features"):
        return []
    if flag.choices:
        return [choice for choice in flag.choices if choice != (value[0] if flag.is_list else value)]
    if flag.name == "visualise":
        return [1]
    return [not value] if isinstance(value, bool) else []
