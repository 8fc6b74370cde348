"""A protocol that has learned from labelled images labels pictures as they come.

Their features stay in memory for a moment and are never stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from densebench import catalog
from densebench.backbones import without_labels
from densebench.backbones.backbone import Backbone
from densebench.console import silenced
from densebench.datasets import load_dataset
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.io.decoding import use_decoder
from densebench.datasets.pictures import Pictures
from densebench.errors import UserError
from densebench.evaluation.labelling import Labeller, Learned
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.pictures import colours_of
from densebench.evaluation.plan import Model, Requested, planned
from densebench.evaluation.undisturbed import plain, random_states
from densebench.features.extract import Features
from densebench.features.memory import Memory
from densebench.few_labels.labelled import labelled_images
from densebench.few_labels.labelling_options import RENAMED, WITHOUT_EFFECT
from densebench.files.atomic import digest
from densebench.numerics.arithmetic import float32
from densebench.pictures.palette import Colour
from densebench.processes import resolve_device, world_size
from densebench.user_code import class_code

VERSION = 1  # raise it when the same inputs would give other label maps
AT_ONCE = {"cpu": 2**23, "cuda": 2**26}
"""Pixels of views whose features are held at once: 32 pictures of 512 px on the CPU, 256 on a GPU."""


@dataclass(frozen=True)
class Segmenter:
    """A protocol, a backbone, and the labelled images that it learns from. `learned` is made when it is first needed."""

    evaluator: Labeller
    protocol: str
    preset: str
    backbone: Backbone
    dataset: Dataset
    train: tuple[Item, ...]
    _learned: list[Learned] = field(default_factory=list, compare=False)

    @property
    def learned(self) -> Learned:
        """What was learned from the labels."""
        if not self._learned:
            with self._numbers():
                self._learned.append(self.evaluator.learn(self.backbone, self.dataset, self.train))
        return self._learned[0]

    @property
    def space(self) -> LabelSpace:
        """The classes that can be predicted."""
        return LabelSpace(self.dataset, "drop", getattr(self.evaluator, "other_class", "off"))

    @property
    def palette(self) -> list[Colour]:
        """One colour for each class that can be predicted."""
        return colours_of(self.space)

    def facts(self) -> dict[str, Any]:
        """Return all that decides a label map but the picture, and names for people, as JSON values."""
        settings = {key: value for key, value in self.evaluator.settings(self.dataset).items() if key not in WITHOUT_EFFECT}
        about = {"name": catalog.short_name("protocols", self.protocol), "preset": self.preset, "version": self.evaluator.version}
        labels = {"name": self.dataset.name, "images": len(self.train), "classes": list(self.space.names)}
        return {
            "backbone": self.backbone.identity(),
            "protocol": {**about, "settings": settings, "code": catalog.code_of("protocols", self.protocol)},
            "labels": {**labels, "digest": self.dataset.digest("labels", self.train), "code": _code(self.dataset)},
        }

    def identity(self) -> str:
        """Return the digest of all that decides a label map but the picture."""
        facts = self.facts()
        backbone, protocol, labels = without_labels(facts["backbone"]), dict(facts["protocol"]), dict(facts["labels"])
        del protocol["preset"], labels["name"]
        return digest([VERSION, backbone, protocol, labels], 16)

    def labelled(self, pictures: Pictures, items: Sequence[Item]) -> Iterator[tuple[Item, UInt8[np.ndarray, "h w"] | UserError]]:
        """Yield each picture with its label map, or with the error that says why it cannot be read. Order may change there."""
        for some in self._portions(pictures, items):
            flawed: dict[str, UserError] = {}
            try:
                features = self._features(pictures, some)
            except UserError:  # perhaps of one picture alone
                flawed = {item.name: flaw for item in some if (flaw := _flaw(pictures, item)) is not None}
                if not flawed:
                    raise
                yield from ((item, flawed[item.name]) for item in some if item.name in flawed)
                some = [item for item in some if item.name not in flawed]
                if not some:
                    continue
                features = self._features(pictures, some)
            coming = self.learned.label_maps(pictures, some, features=features)
            while True:
                with self._numbers():  # not while the caller has a label map
                    found = next(coming, None)
                if found is None:
                    break
                yield found[0], found[1].numpy()

    def _portions(self, pictures: Pictures, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Yield pictures in portions whose views have at most so many pixels that their features fit the memory."""
        most = AT_ONCE[resolve_device(self.evaluator.device).type]
        some: list[Item] = []
        pixels = 0
        for item in items:
            try:
                height, width = self.learned.view.shape(*pictures.image_size(item))
            except UserError:  # it is met again where it is decoded
                height = width = 0
            if some and pixels + height * width > most:
                yield some
                some, pixels = [], 0
            some.append(item)
            pixels += height * width
        if some:
            yield some

    def _features(self, pictures: Pictures, items: Sequence[Item]) -> Features:
        """Return the features of a few pictures, held in memory and stored nowhere."""
        with self._numbers(), Memory(pictures, 2**62).used(), silenced():  # one line says how far all of them are
            return self.learned.features(pictures, items)

    @contextmanager
    def _numbers(self) -> Iterator[None]:
        """Compute the block as `evaluate` computes, whatever the caller has switched on."""
        with random_states(), plain(), float32(tf32=self.evaluator.precision == "tf32"):
            yield


def opened_segmenter(
    labels: str | Path | Dataset,
    backbone: Model,
    method: str | Path | Labeller = "incontext",
    *,
    split: str | Sequence[str] | None = None,
    data_root: str | Path | None = None,
    **given: Any,
) -> Segmenter:
    """Return what labels pictures, with the backbone loaded; nothing is learned yet. Arguments are as of `segment`.

    Raises UserError for what the caller can mend, among it a protocol that labels no new images, and an option without effect.
    """
    if backbone is None:
        raise UserError("no backbone is named; give one of `densebench ls backbones`")
    dataset = load_dataset(labels, data_root, needs_splits=False)
    if useless := sorted(WITHOUT_EFFECT & given.keys()):
        raise UserError(f"--{useless[0].replace('_', '-')} has no effect where pictures are labelled; leave it out")
    given = {RENAMED.get(name, name): value for name, value in given.items()}
    plan = planned(backbone, method, dataset, data_root=data_root, **given)
    evaluator = plan.evaluator.resolve(dataset)
    if not isinstance(evaluator, Labeller):
        known = ", ".join(labellers())
        raise UserError(f"{plan.protocol} with the preset {plan.preset} cannot label new images; {known} can")
    if len(plan.backbones) != 1 or world_size() > 1:
        raise UserError("pictures are labelled by one backbone in one process; call segment once for each")
    use_decoder(evaluator.decoder)
    loaded = _loaded(plan.backbones[0])
    return Segmenter(evaluator, plan.protocol, plan.preset, loaded, dataset, labelled_images(dataset, split))


def labellers() -> list[str]:
    """Return the names of the protocols that label new images, with the presets where only some of them do."""
    names = []
    for name, entry in catalog.entries("protocols").items():
        fitting = [part for part in entry.parts if part.labels_images]
        presets = [preset for part in fitting for preset in part.presets]
        if fitting:
            names.append(name if len(fitting) == len(entry.parts) else f"{name} (--preset {' or '.join(presets)})")
    return names


def _flaw(pictures: Pictures, item: Item) -> UserError | None:
    try:
        pictures.image(item)
    except UserError as error:
        return error
    return None


def _loaded(requested: Requested) -> Backbone:
    with random_states(), plain():
        return requested.load()


def _code(dataset: Dataset) -> str:
    return dataset.code or class_code(type(dataset))
