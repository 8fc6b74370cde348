"""New pictures labelled by what a few labelled ones show: `densebench segment`, and the same from Python.

A protocol that learns from labelled images (`evaluation.labelling`) learns from all that are there, then pictures are labelled
as they come: their features stay in memory for a moment and are never stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from densebench import catalog, options
from densebench.backbones import without_labels
from densebench.backbones.backbone import Backbone
from densebench.console import notice, progress, silenced, warn
from densebench.datasets import load_dataset
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.io.decoding import use_decoder
from densebench.errors import UserError, unknown
from densebench.evaluation.labelling import Labeller, Learned
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.pictures import VOID_COLOUR
from densebench.evaluation.plan import Model, Requested, planned
from densebench.evaluation.undisturbed import plain, random_states
from densebench.features.extract import Features
from densebench.features.memory import Memory
from densebench.few_labels.own_options import OF_PATCHES, WITHOUT_EFFECT
from densebench.few_labels.pictures import Pictures, open_pictures
from densebench.few_labels.writing import Output
from densebench.files.atomic import digest
from densebench.numerics.arithmetic import float32
from densebench.pictures.palette import Colour
from densebench.processes import resolve_device, world_size
from densebench.user_code import class_code

VERSION = 1  # raise it when the same inputs would give other label maps
AT_ONCE = {"cpu": 2**23, "cuda": 2**26}
"""Pixels of views whose features are held at once: 32 pictures of 512 px on the CPU, 256 on a GPU."""

Images = Any
"""A path of a picture or a folder, the name of a data set, a `Dataset`, an array, a PIL image, or several of one kind."""


@dataclass(frozen=True)
class Segmented:
    """What `segment` has written.

    folder: the output. classes: the name of each number in a label map. paths: picture -> its label map, of all that are there
    now. new: how many of them this call made. failed: picture -> why it has none, in one line.
    """

    folder: Path
    classes: tuple[str, ...]
    paths: dict[str, Path]
    new: int
    failed: dict[str, str]

    def __str__(self) -> str:
        there = f" ({len(self.paths) - self.new} were there already)" if self.new < len(self.paths) else ""
        without = f"; {len(self.failed)} pictures have none" if self.failed else ""
        return f"{self.folder}: {len(self.paths)} label maps of {len(self.classes)} classes{there}{without}"


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
        colours = self.dataset.palette()
        return [VOID_COLOUR, *colours] if len(self.space.names) > len(colours) else colours

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


def segment(
    images: Images,
    labels: str | Path | Dataset,
    backbone: Model,
    method: str | Path | Labeller = "incontext",
    *,
    output: str | Path = "segmented",
    overlays: bool = True,
    rerun: bool = False,
    limit: int | None = None,
    data_root: str | Path | None = None,
    command: str = "",
    **given: Any,
) -> Segmented:
    """Label new pictures, write a paletted PNG and an overlay of each, and return where they are.

        segmented = segment("photos", "labelled", "timm:vit_small_patch14_dinov2")

    images: pictures, see `open_pictures`: a folder (any depth), files, a data set. labels: what `load_dataset` takes: a folder of
    images and label maps, COCO, CVAT or LabelMe, or a name such as "camvid". backbone: what `load_backbone` takes. method: a
    protocol that learns from labelled images, by its name or as a configured object.
    output: the folder, see `few_labels.writing`; label maps that are there already, made alike, stay, unless `rerun`.
    limit: at most so many pictures, evenly spaced. given: `split` (the split of the labels to learn from, or several; else all),
    `preset`, `name`, `weights`, `layer`, `pos_embed`, `role`, `seed`, `mean`, `std` and `features` as in `evaluate`, and the
    protocol's own options; its option `labels` is `patch_labels` here.

    A picture that cannot be read is reported on stderr and left out. Raises UserError for anything else that the caller can mend;
    what was written until then stays.
    """
    options.check_types(options.SWITCH, overlays=overlays, rerun=rerun)
    options.check_types(options.PATH, output=output)
    options.check_run(None, limit)
    segmenter = opened_segmenter(labels, backbone, method, data_root=data_root, **given)
    written = {item.label for item in segmenter.train if item.label is not None and item.label != item.image}
    pictures = open_pictures(_several(images), data_root, without=[Path(output), *written], limit=limit)
    return _write(segmenter, pictures, Path(output), overlays, rerun, command)


def iter_segment(
    images: Images,
    labels: str | Path | Dataset,
    backbone: Model,
    method: str | Path | Labeller = "incontext",
    *,
    data_root: str | Path | None = None,
    limit: int | None = None,
    **given: Any,
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w"]]]:
    """Yield the name and the label map of each picture, and write nothing. Arguments are as of `segment`.

    images: also uint8 arrays `[h, w, 3]` or `[h, w]` and PIL images, whose names are 000000, 000001, ... A label map has the size
    of the upright picture; its numbers are indices of the classes (`load_dataset(labels).classes`). Raises UserError as `segment`
    does, and for a picture that cannot be read.
    """
    options.check_run(None, limit)
    segmenter = opened_segmenter(labels, backbone, method, data_root=data_root, **given)
    pictures = open_pictures(_several(images), data_root, limit=limit)
    for item, found in segmenter.labelled(pictures, pictures.items("all")):
        if isinstance(found, UserError):
            raise found
        yield item.name, found


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
    dataset = load_dataset(labels, data_root)
    if useless := sorted(WITHOUT_EFFECT & given.keys()):
        raise UserError(f"--{useless[0].replace('_', '-')} has no effect where pictures are labelled; leave it out")
    given = {OF_PATCHES.get(name, name): value for name, value in given.items()}
    plan = planned(backbone, method, dataset, data_root=data_root, **given)
    evaluator = plan.evaluator.resolve(dataset)
    if not isinstance(evaluator, Labeller):
        known = ", ".join(labellers())
        raise UserError(f"{plan.protocol} with the preset {plan.preset} labels no new images; {known} do")
    if len(plan.backbones) != 1 or world_size() > 1:
        raise UserError("pictures are labelled by one backbone in one process; call segment once for each")
    use_decoder(evaluator.decoder)
    loaded = _loaded(plan.backbones[0])
    return Segmenter(evaluator, plan.protocol, plan.preset, loaded, dataset, labelled_items(dataset, split))


def labellers() -> list[str]:
    """Return the names of the protocols that label new images, with the presets where only some of them do."""
    names = []
    for name, entry in catalog.entries("protocols").items():
        fitting = [part for part in entry.parts if issubclass(catalog.load("protocols", name, part.presets[0]), Labeller)]
        presets = [preset for part in fitting for preset in part.presets]
        if fitting:
            names.append(name if len(fitting) == len(entry.parts) else f"{name} (--preset {' or '.join(presets)})")
    return names


def labelled_items(dataset: Dataset, split: str | Sequence[str] | None = None) -> tuple[Item, ...]:
    """Return the labelled images of a data set, each once: of a split, of several, or of all splits that are there.

    Raises UserError for an unknown split, where none is there, and where two images of different splits have one name.
    """
    wanted = dataset.splits if split is None else (split,) if isinstance(split, str) else tuple(split)
    for name in wanted:
        if name not in dataset.splits:
            raise unknown("split", name, dataset.splits, f"{dataset.name} has {', '.join(dataset.splits)}")
    there = [name for name in wanted if split is not None or dataset.has(name)]
    found: dict[str, Item] = {}
    for item in (item for name in there or wanted for item in dataset.items(name)):
        if (other := found.setdefault(item.name, item)).image != item.image:
            raise UserError(f"{dataset.name} has two images called {item.name}, {other.image} and {item.image}; name a --split")
    return tuple(found.values())


def _write(segmenter: Segmenter, pictures: Pictures, folder: Path, overlays: bool, rerun: bool, command: str) -> Segmented:
    """Label the pictures that have no label map yet, and write each as it comes."""
    space, dataset = segmenter.space, segmenter.dataset
    background = "" if dataset.background is None else dataset.classes[dataset.background]
    output = Output(folder, segmenter.identity(), space.names, segmenter.palette, background, overlays)
    facts = {"command": command, **segmenter.facts()}
    output.open(facts, rerun)
    digests, failed = _digests(pictures)
    _say_known(segmenter, digests)
    items = [item for item in pictures.items("all") if item.name in digests]
    left = [item for item in items if not output.holds(item, digests[item.name])]
    paths = {item.name: output.path(item) for item in items}
    learned = {"learned": segmenter.learned.details} if left else {}
    new = 0
    with progress("label maps", len(left)) as bar:
        for item, found in segmenter.labelled(pictures, left) if left else ():
            if isinstance(found, UserError):
                failed[item.name] = str(found)
                warn(f"{found}; it is left out")
            else:
                output.write(pictures, item, digests[item.name], found)
                new += 1
            bar.advance()
    paths = {name: path for name, path in paths.items() if name not in failed}
    output.note({**facts, **learned, "pictures": len(paths), "failed": failed})
    if not paths:
        raise UserError(f"none of the {len(failed)} pictures can be read: {next(iter(failed.values()))}")
    return Segmented(folder, tuple(space.names), paths, new, failed)


def _digests(pictures: Pictures) -> tuple[dict[str, str], dict[str, str]]:
    """Return the digest of each picture that can be opened, and for each other one line that says why not."""
    digests: dict[str, str] = {}
    failed: dict[str, str] = {}
    for item in pictures.items("all"):
        try:
            pictures.image_size(item)
            digests[item.name] = pictures.image_digest(item)
        except UserError as error:
            failed[item.name] = str(error)
            warn(f"{error}; it is left out")
    return digests, failed


def _say_known(segmenter: Segmenter, digests: dict[str, str]) -> None:
    known = set(segmenter.dataset.image_digests(segmenter.train))
    if count := sum(value in known for value in digests.values()):
        notice(f"{count} of the {len(digests)} pictures are among the labelled ones; what they get says little of new ones")


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


def _several(images: Images) -> Sequence[object]:
    return list(images) if isinstance(images, list | tuple) else [images]
