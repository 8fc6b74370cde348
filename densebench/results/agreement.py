"""May a measured number stand beside a published one? Only where everything that decides it agrees.

That is the protocol by the name of its published numbers, the preset, its version and every setting, the data set as a whole, the
layers, and the point of the axes. Whatever disagrees is named, so that a table can say why a cell is empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from densebench import catalog, options
from densebench.datasets.catalog import load_dataset, titles
from densebench.errors import UserError
from densebench.results import coverage
from densebench.results.frame import remark_of
from densebench.results.provenance import is_rehearsal
from densebench.results.published import settings
from densebench.results.published.layout import Column, Items, Row
from densebench.results.score import Point

DATASETS = {"coco-boxes": "coco", "imagenet-boxes": "imagenet"}
"""Data sets whose published numbers have the name of a larger one: these are its boxes."""
SIZES = ("small", "medium", "large")
SIZE_TOLERANCE = 0.25
"""The share by which a count of parameters may differ: papers leave heads and norms out, or round."""
OF_FEATURES = ("debias", "upsample")
"""How features may be changed before any protocol; published numbers are of plain ones unless they say so."""
SHOWN = 3  # settings that differ, in one footnote


@dataclass(frozen=True)
class Expected:
    """What a preset of a protocol is on a data set.

    settings: by name; None where the class cannot be read. complete: whether these are all settings of a record; else those that
    follow from the data set are not known.
    defaults: the values of each axis that a run takes where none are asked for.
    """

    version: int | None = None
    settings: Mapping[str, Any] | None = None
    complete: bool = False
    defaults: Mapping[str, Sequence[Any]] | None = None


class Presets:
    """What presets of protocols are, each read once. A file is never imported because a record names it."""

    def __init__(self) -> None:
        self._classes: dict[str, dict[str, Any]] = {}
        self._known: dict[tuple[str, str, str], Expected] = {}
        self._reproducing: dict[tuple[str, str, str, str], list[str]] = {}

    @cached_property
    def _names(self) -> list[str]:
        return catalog.names("protocols")

    @cached_property
    def _datasets(self) -> dict[str, str]:
        return titles()

    def classes(self, protocol: str) -> dict[str, Any]:
        """Return the class of each preset of a protocol; what cannot be read or imported hides no other's numbers."""
        if protocol not in self._classes:
            self._classes[protocol] = {}
            with suppress(UserError):
                entry = catalog.find("protocols", protocol) if protocol in self._names else None
                for part in () if entry is None else entry.parts:
                    kind = catalog.load("protocols", protocol, part.presets[0])
                    self._classes[protocol] |= dict.fromkeys(part.presets, kind)
        return self._classes[protocol]

    def expected(self, protocol: str, preset: str, dataset: str) -> Expected:
        """Return what a preset that exists is on a data set."""
        key = (protocol, preset, dataset)
        if key not in self._known:
            kind = self.classes(protocol).get(preset)
            self._known[key] = Expected() if kind is None else _expected(kind, preset, dataset, dataset in self._datasets)
        return self._known[key]

    def reproducing(self, protocol: str, published: str, layer: str, paper: str) -> list[str]:
        """Return the presets of a protocol that reproduce published numbers of a name: the paper's own alone if there is one."""
        key = (protocol, published, layer, paper)
        if key not in self._reproducing:
            named = [
                preset
                for preset, kind in self.classes(protocol).items()
                if published in map(settings.plain, kind.published_names(preset, layer))
            ]
            own = [preset for preset in named if preset.casefold() == paper.casefold()]
            self._reproducing[key] = own or named
        return self._reproducing[key]


def _expected(kind: Any, preset: str, dataset: str, is_known: bool) -> Expected:
    plain = options.build(kind, kind.presets[preset], {})
    usual = {name: value for name, value in options.select(plain, "setting").items() if value is not None}
    if not is_known:
        return Expected(kind.version, usual)
    try:  # no data is needed: the class of a data set knows its splits and sizes
        opened = load_dataset(dataset)
        resolved = plain.resolve(opened)
        defaults: dict[str, list[Any]] = {}
        for point in resolved.points(opened):
            for name, value in point:
                values = defaults.setdefault(name, [])
                values += [] if value in values else [value]
        return Expected(kind.version, resolved.settings(opened), True, defaults)
    except UserError:
        return Expected(kind.version, usual)


def is_of(dataset: str, published: str) -> bool:
    """Return whether published numbers on a data set are numbers on this one of ours."""
    return published in (dataset, DATASETS.get(dataset))


def metric_names(metric: str, variant: str, headline: str) -> set[str]:
    """Return what papers call a metric in a variant: its own name in the variant of the headline, and "ap_bbox_small"."""
    head, _, size = metric.partition("_")
    sized = (head, f"_{size}") if size in SIZES else (metric, "")
    kind = {"box": "bbox", "class-agnostic": "voc"}.get(variant, variant)
    return {f"{sized[0]}_{kind}{sized[1]}"} | ({metric} if variant == headline else set())


def disagreements(
    record: Mapping[str, Any], column: Column, changed: Items, expected: Expected, presets: Sequence[str], *, in_paper: bool
) -> list[str]:
    """Return what a record of this protocol and data set differs in from what a column of a paper asks for.

    changed: settings in which the paper differs from the preset, and how it changed features before. expected: what the record's
    own preset is. presets: those that reproduce the numbers. in_paper: whether there is a published number to agree with;
    without it any one layer may stand in a column of the last layer.
    """
    protocol, dataset, backbone = record["protocol"], record["dataset"], record["backbone"]
    if protocol["preset"] not in presets:
        names = " or ".join(f"{protocol['name']}/{preset}" for preset in presets)
        return [f"measured by {protocol['name']}/{protocol['preset']}; the published number goes with {names}"]
    reasons = ["measured in a rehearsal of a table (--set)"] if is_rehearsal(record) else []
    if dataset["limit"] is not None:
        reasons.append(f"measured on {dataset['images']:,} images (--limit {dataset['limit']})")
    elif coverage.partial(dataset):
        reasons.append(f"measured on {coverage.images(dataset)}")
    if dataset["code"] and dataset["name"] in titles():
        reasons.append(f"measured on a data set of the user's own that is called {dataset['name']}")
    if protocol["version"] != expected.version:
        reasons.append(f"measured by version {protocol['version']} of {protocol['name']}, which today is {expected.version}")
    if differing := _differing(protocol["settings"], column, changed, expected):
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        reasons.append(f"measured with {', '.join(differing[:SHOWN])}{more}")
    for name in OF_FEATURES:
        printed, done = dict(changed).get(name, "none"), _done(backbone, name)
        if not settings.same(printed, done):
            reasons.append(f"measured with {name}={done} (the paper: {printed})")
    reasons += [f"the paper: {name}={value}, which is no setting" for name, value in _unknown(record, changed, expected)]
    layer, named, wanted = str(backbone.get("layer", "last")), dict(changed).get("layer"), dict(column.items).get("layers", "1")
    of_count = wanted == str(layer.count(",") + 1) and not (wanted == "1" and layer != "last" and in_paper)
    if not (of_count if named is None else layer == named):
        of_what = _layers(wanted) if named is None else f"layer {named}"
        reasons.append(f"measured on layer {layer}; the paper's number is of {of_what}")
    asked = dict(column.items)
    for name, values in (expected.defaults or {}).items():
        if name not in ("seed", *asked) and len(values) > 1:
            reasons.append(f"the paper does not say which {name}: {' or '.join(map(str, values))}")
    return reasons


def other_backbone(record: Mapping[str, Any], row: Row) -> list[str]:
    """Return what a record's backbone cannot have in common with that of a row: the patch size and the number of parameters."""
    backbone, patch = record["backbone"], re.search(r"/(\d+)$", row.backbone)
    reasons = []
    if patch and int(patch[1]) != backbone["stride"]:
        reasons.append(f"measured with a backbone of stride {backbone['stride']}; the paper's is {row.backbone}")
    params, printed = backbone.get("params"), float(row.params_millions or 0) * 1e6
    if params is not None and printed and abs(params - printed) > SIZE_TOLERANCE * printed:
        reasons.append(f"measured with a backbone of {params / 1e6:.1f}M parameters; the paper's has {row.params_millions}M")
    return reasons


def _unknown(record: Mapping[str, Any], changed: Items, expected: Expected) -> Items:
    """Return what a paper did otherwise that is nothing of the protocol or of features, and so cannot have been done here."""
    known = {*record["protocol"]["settings"], *(expected.settings or {}), *OF_FEATURES, "layer", "variant"}
    return tuple(item for item in changed if item[0] not in known)


def _done(backbone: Mapping[str, Any], name: str) -> str:
    """Return how features were changed, in words: "20 of noise", that is 20 directions of images of noise, or "none"."""
    value = backbone.get(name)
    if name == "debias" and value is not None:
        return f"{value} of {backbone.get('debias_from', {}).get('kind', 'noise')}"
    return "none" if value is None else str(value)


def _layers(count: str) -> str:
    return "the last layer" if count == "1" else f"{count} layers"


def _differing(recorded: Mapping[str, Any], column: Column, changed: Items, expected: Expected) -> list[str]:
    """Return the settings in which a record differs from its preset, or from what the paper did otherwise."""
    usual = dict(expected.settings or {})
    asked = {setting: value for name, value in column.items for setting in settings.SETTINGS.get(name, ()) if setting in usual}
    asked |= {name: value for name, value in changed if name in usual}
    names = [name for name in {**usual, **recorded} if name in usual or expected.complete]
    differing = []
    for name in names:
        value = recorded.get(name)
        if name in asked and not settings.same(asked[name], value):
            differing.append(f"{name}={_words(value)} (the paper: {asked[name]})")
        elif name not in asked and value != usual.get(name):
            differing.append(f"{name}={_words(value)} (the preset: {_words(usual.get(name))})")
    return differing


def _words(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def fits(point: Point, column: Column, expected: Expected, classes: int | None) -> bool:
    """Return whether a point of the axes, without its seed, is that of a column.

    An axis that the paper does not name has a value that the preset takes. classes: what K=GT means.
    """
    items = dict(column.items)
    defaults = dict(expected.defaults or {"fraction": [1], **({} if classes is None else {"K": [classes]})})
    for name, value in point:
        printed, usual = items.get(name, "GT"), defaults.get(name, ())
        if printed == "GT" and value not in usual:
            return False
        if printed != "GT" and not settings.same(printed, value):
            return False
    return True


def remarks(record: Mapping[str, Any]) -> list[str]:
    """Return what differs and may stand beside a published number: the remark of the preset, and how positions were resized."""
    remark, backbone = remark_of(record["protocol"]["settings"]), record["backbone"]
    layer = str(backbone.get("layer", "last"))
    return [*([remark] if remark else []), *([f"layers {layer}"] if "," in layer else [])]
