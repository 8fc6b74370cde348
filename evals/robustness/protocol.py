"""Robustness: the segmentation score when the scored images are corrupted, and what share of the clean score that is.

Hendrycks and Dietterich (ICLR 2019) measured classifiers on 15 corruptions at 5 levels, relative to AlexNet; Michaelis et al.
(2019) took the mean score under corruption and its share of the clean one for detection; Kamann and Rother (CVPR 2020) measured
segmentation, again relative to a reference model. Here a memory or a head is built on clean training images, and only the scored
images are corrupted. No reference model is needed: the headline is the **mean mIoU under corruption**, over levels and then over
corruptions. The record has the **retention** too, its share of the clean mIoU in %: over all corruptions, of each one and of each
family. All have intervals by a bootstrap over images, which is paired for shares.

- v1: the 15 common corruptions, 5 levels. `frost` needs photographs; without them it is left out, the record says so, and it is
  of another group: 14 corruptions.
- quick: the six corruptions that draw no random number, levels 2 and 4.

Pictures are corrupted at their own size, before they are resized: strengths are in pixels, so that the same level is weaker on a
larger picture, and data sets do not compare. Training images are not augmented: a memory of jittered colours would be a defence.

Retention does not rank: it is a share of the backbone's own score, so features that know nothing keep all of it, and more than
100 % happens where the clean score is low. Where the clean mIoU is 0 there is no share, and the headline's details say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from densebench import catalog, options
from densebench.backbones.backbone import Backbone
from densebench.console import notice
from densebench.datasets.corrupted import CorruptedImages, Corruption, corrupted, frost_folder, has_frost
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.errors import UserError, unknown
from densebench.evals.robustness.pictures import draw
from densebench.evals.robustness.retained import Estimate, mean_iou_of, mean_of, retention
from densebench.evaluation.counts import Counts
from densebench.evaluation.labelling import Labeller, Learned
from densebench.evaluation.option_groups import Supervised
from densebench.evaluation.protocol import Run
from densebench.evaluation.stages import Stage
from densebench.features.memory import Memory
from densebench.features.shared_store import see_all
from densebench.files.atomic import digest
from densebench.files.store import Store
from densebench.numerics.bootstrap import interval
from densebench.numerics.corruptions import CORRUPTIONS, DETERMINISTIC, FAMILIES, FROST, LEVELS
from densebench.numerics.segmentation import confusion_matrix
from densebench.options import setting
from densebench.processes import alone, dealt, from_main, world_size
from densebench.results.score import Point, Score
from densebench.results.summary import BESIDE

SHARED = (
    "image_size", "resample", "other_class", "absent", "train_split", "eval_split", "precision", "device", "batch_size",
    "workers", "decoder", "cache_limit",
)  # fmt: skip
"""The options that are those of the method too."""
AT_ONCE = 2**30  # bytes of corrupted features in memory at once
MOST = 512  # images at once
TRUTHS = 2**30  # bytes of label maps that are read once for all conditions
CLEAN = ("clean", 0)
CLEAN_POINT: Point = (("clean", "images"),)
SHARE = "% of clean"
"""The unit of retention, which may exceed 100."""
Condition = tuple[str, int]
"""A corruption and its level."""


@dataclass(frozen=True)
class Robustness(Supervised):
    """Options of robustness; see the module for what the presets are."""

    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"v1": {}, "quick": {"corruptions": DETERMINISTIC, "levels": (2, 4)}}

    method: str = setting(
        "incontext", "protocol that learns from clean images and labels others", choices=("incontext", "linear")
    )
    image_size: int | None = setting(
        None, "side in px, a multiple of the stride; none: the data set's usual one, rounded down", minimum=1, maximum=16_384
    )
    resample: str = setting("bilinear", "how images are resized", choices=("bilinear", "bicubic"))
    corruptions: tuple[str, ...] = setting(
        (), "corruptions; none: the 15 common ones, without frost where its photographs are missing"
    )
    levels: tuple[int, ...] = setting(LEVELS, "levels of each corruption", minimum=1, maximum=5)

    def headline(self) -> dict[str, str]:
        """Return what tables show: the mIoU, of corrupted images the mean over levels and corruptions."""
        return {"metric": "miou", "variant": "mean"}

    def decides(self) -> dict[str, Any]:
        """Return the point of the mean over all corruptions."""
        return dict(self._mean_point())

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the settings, with the image size that the data set suggests if none is given, and what else decides numbers:
        the method's version and, for frost, its photographs."""
        size = self.image_size or dataset.image_size_hint
        frost = {"frost": digest(Corruption.read(FROST, dataset).identity, 16)} if FROST in self.corruptions else {}
        return {**super().settings(dataset), "image_size": size, "method_version": self.labeller(dataset).version, **frost}

    def resolve(self, dataset: Dataset) -> Robustness:
        """Fill in the splits and the corruptions, in their usual order. Raises UserError for an unknown one."""
        if isinstance(dataset, CorruptedImages):
            raise UserError(f"--corrupt goes with other protocols: robustness corrupts the images of {dataset.name} itself")
        given = [name.strip().lower().replace("_", "-") for name in self.corruptions]
        for name in given:
            if name not in CORRUPTIONS:
                raise unknown("corruption", name, CORRUPTIONS, f"--corruptions takes some of {', '.join(CORRUPTIONS)}")
        if FROST in given:
            frost_folder(dataset)
        if not self.levels:
            raise UserError("--levels is empty; give some of 1 to 5")
        wanted = given or [name for name in CORRUPTIONS if name != FROST or has_frost(dataset)]
        ordered = tuple(name for name in CORRUPTIONS if name in wanted)
        return replace(super().resolve(dataset), corruptions=ordered, levels=tuple(sorted({*self.levels})))

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for the clean images, one for each corruption, and one for the mean over all of them.

        Tables sort points by the names of their axes: in this order.
        """
        return [CLEAN_POINT, *((("corruption", name),) for name in self.corruptions), self._mean_point()]

    def _mean_point(self) -> Point:
        count = len(self.corruptions)
        return (("mean", f"of {count} corruption{'' if count == 1 else 's'}"),)

    def labeller(self, dataset: Dataset) -> Labeller:
        """Return the method with this protocol's options; it does not augment the images that it learns from."""
        kind, preset = catalog.load_preset("protocols", self.method, None)
        known = {flag.name for flag in options.flags(kind)}
        given = {name: getattr(self, name) for name in SHARED if name in known}
        given |= {"augment_epochs": 0} if "augment_epochs" in known else {}
        labeller = options.build(kind, kind.presets[preset], given).resolve(dataset)
        assert isinstance(labeller, Labeller), "all choices are"
        return labeller

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return what the method does with clean images, and a pass of the scored images through the backbone for each condition.

        Features of corrupted images stay in memory, a few hundred images at once, and are never stored.
        """
        conditions = [each for point in self._wanted(dataset, run) for each in self.conditions(point) if each != CLEAN]
        items = self._scored(dataset, run)
        passes = len(dict.fromkeys(conditions))
        method = list(self.labeller(dataset).stages(backbone, dataset, replace(run, known=frozenset())))
        return [*method, Stage(f"{passes} conditions", items, passes=passes)] if passes else method

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Learn from clean images, then score the clean ones and each corruption; a condition that was counted is not again.

        Several processes learn the same, and then deal out the conditions.
        """
        labeller, train, items = (
            self.labeller(dataset),
            dataset.part(self.splits(dataset)[0], run.limit),
            self._scored(dataset, run),
        )
        self._report_frost()
        with run.stage("features"):
            for stage in labeller.stages(backbone, dataset, replace(run, known=frozenset())):
                if stage.extraction is not None:
                    self.extracted(stage.extraction)
        with run.stage("learning"), alone():
            learned = labeller.learn(backbone, dataset, train)
        if not run.drawing:
            with run.workspace("robustness", world_size()) as folder:
                store = Store(folder, {"protocol": "robustness"})
                conditions = _Conditions(learned, dataset, self.splits(dataset)[1], items, store, run)
                yield from self._of_points(conditions, self._wanted(dataset, run))
        if self.visualise and run.draws() and run.pictures is not None:
            split = self.splits(dataset)[1]
            with alone():
                sets = {n: {level: corrupted(dataset, f"{n}:{level}", split) for level in self.levels} for n in self.corruptions}
                draw(learned, dataset, sets, limited(items, self.visualise), run.pictures)

    def conditions(self, point: Point) -> list[Condition]:
        """Return what a point needs: the clean images, and none, one or all of the corruptions at every level."""
        if point == CLEAN_POINT:
            return [CLEAN]
        names = [value for name, value in point if name == "corruption"] or list(self.corruptions)
        return [CLEAN, *((name, level) for name in names for level in self.levels)]

    def _wanted(self, dataset: Dataset, run: Run) -> list[Point]:
        return [point for point in self.points(dataset) if point not in run.known]

    def _scored(self, dataset: Dataset, run: Run) -> Sequence[Item]:
        items = dataset.part(self.splits(dataset)[1], run.limit)
        return limited(items, self.visualise) if run.drawing else items

    def _report_frost(self) -> None:
        if set(CORRUPTIONS) - set(self.corruptions) == {FROST}:
            notice("frost is left out, its photographs are not there: 14 corruptions (docs/score.md says where to get them)")

    def _of_points(self, conditions: _Conditions, points: Sequence[Point]) -> Iterator[Score]:
        """Yield the scores of points. One process counts the conditions point by point; several deal out those of all at once."""
        needed, known = [self.conditions(point) for point in points], dict[Condition, Estimate]()
        if world_size() > 1:
            conditions.count([each for some in needed for each in some])
        for point, some in zip(points, needed, strict=True):
            conditions.count(some)
            for each in some:
                known[each] = known.get(each) or mean_iou_of(conditions.tally(each), self.absent)  # type: ignore[arg-type]
            estimates = {each: known[each] for each in some}
            yield from self.scores(point, estimates, conditions.learned, len(conditions.items))

    def scores(self, point: Point, estimates: Mapping[Condition, Estimate], learned: Learned, images: int) -> list[Score]:
        """Return the scores of a point, the headline last. estimates: the mIoU of all its conditions, the clean one too."""
        clean = estimates[CLEAN]
        details = {**learned.details, "images": images}
        if point == CLEAN_POINT:
            return [_score(point, "miou", "mean", clean, learned.names, details)]
        details |= {"corrupted_at": "native size", "levels": list(self.levels)}
        names = [name for name in CORRUPTIONS if (name, self.levels[0]) in estimates]
        by_name = {name: mean_of([estimates[name, level] for level in self.levels]) for name in names}
        mean, shares = mean_of(list(by_name.values())), dict[str, Estimate]()
        scores: list[Score] = []
        if dict(point).get("corruption"):
            [name] = names
            by_level = {f"level {level}": estimates[name, level] for level in self.levels}
            scores += [_score(point, "miou", level, each, learned.names, details) for level, each in by_level.items()]
        else:
            families = {family: [by_name[name] for name in names if name in of] for family, of in FAMILIES.items()}
            shares = {family: mean_of(each) for family, each in families.items() if each}
            missing = [name for name in CORRUPTIONS if name not in by_name]
            details |= {"without": missing} if missing else {}
        for variant, estimate in {**shares, "mean": mean}.items():
            if (share := retention(clean, estimate)) is not None:
                scores.append(_score(point, "retention", variant, share, learned.names, details))
        about = {BESIDE: "retention"} if clean.value > 0 else {"undefined": "retention, since the clean mIoU is 0"}
        return [*scores, _score(point, "miou", "mean", mean, learned.names, details | about)]


def _score(
    point: Point, metric: str, variant: str, estimate: Estimate, names: Sequence[str], details: Mapping[str, Any]
) -> Score:
    """Return an estimate as a score. names: those of the classes."""
    low, high = interval(estimate.draws)
    classes = {name: None if v != v else round(v, 4) for name, v in zip(names, estimate.classes.tolist(), strict=True)}
    return Score(
        metric, variant, round(estimate.value, 4), unit=SHARE if metric == "retention" else "%", digits=1, direction="higher",
        axes=dict(point), ci95=(round(low, 4), round(high, 4)), per_class=classes, details=dict(details),
        bootstrap=() if variant.startswith("level") else tuple(estimate.draws.tolist()),
    )  # fmt: skip


class _Conditions:
    """Counts pixels of the scored images under each condition, once: what a killed run has counted is in the store."""

    def __init__(self, learned: Learned, dataset: Dataset, split: str, items: Sequence[Item], store: Store, run: Run) -> None:
        self.learned, self.dataset, self.split, self.items, self.store, self.run = learned, dataset, split, items, store, run
        self._truths: dict[str, Tensor] = {}
        self._bytes = 0

    def tally(self, condition: Condition) -> Int[Tensor, "n 3 c"]:
        """Return, per image and class, the pixels that agree, of the truth and of the prediction, as they were counted."""
        return self.store[_key(condition)]

    def count(self, conditions: Sequence[Condition]) -> None:
        """Count what is not in the store; several processes deal it out. Raises UserError where no pixel has a class."""
        every = list(dict.fromkeys(conditions))
        lacking = from_main(lambda: [each for each in every if _key(each) not in self.store])
        for condition in dealt(lacking):
            with self.run.stage("clean" if condition == CLEAN else "corrupted"), alone():
                self.store.add({_key(condition): self._counted(condition)})
        see_all(self.store, [_key(each) for each in every])

    def _counted(self, condition: Condition) -> Int[Tensor, "n 3 c"]:
        classes = len(self.learned.names)
        counts = Counts(1, classes)
        for item, labels in self._label_maps(condition):
            counts.add(item.name, confusion_matrix(labels, self._truth(item), classes)[None])
        tally = counts.tallies([item.name for item in self.items], 0, torch.arange(classes))
        if not tally[:, 1].any():
            raise UserError(f"no pixel of the {len(self.items)} images that are scored has a class; check their label maps")
        return tally

    def _label_maps(self, condition: Condition) -> Iterator[tuple[Item, Tensor]]:
        """Yield the label map of each image. Features of clean images come from the cache, those of corrupted ones go nowhere."""
        if condition == CLEAN:
            yield from self.learned.label_maps(self.dataset, self.items, "scored")
            return
        images = corrupted(self.dataset, "{}:{}".format(*condition), self.split)
        size = self._at_once(images)
        for start in range(0, len(self.items), size):
            some = self.items[start : start + size]
            with Memory(images, 0).used():
                wanted = replace(self.learned.extraction(images, some), label=f"features under {_key(condition)}")
                features = self.learned.extracted(wanted)
                yield from self.learned.label_maps(images, some, "scored", features)

    def _at_once(self, images: Dataset) -> int:
        """Return how many images' features are in memory together."""
        largest = self.learned.extraction(images, self.items[:1]).nbytes(self.items[:1])
        return max(1, min(MOST, AT_ONCE // largest))

    def _truth(self, item: Item) -> Tensor:
        if item.name in self._truths:
            return self._truths[item.name]
        truth = self.learned.truth(item)
        if self._bytes + truth.nbytes <= TRUTHS:
            self._truths[item.name] = truth
            self._bytes += truth.nbytes
        return truth


def _key(condition: Condition) -> str:
    return "{}:{}".format(*condition)
