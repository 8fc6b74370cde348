"""Object discovery: where is the object of a picture, by the features of its patches and without a label?

LOST (Simeoni et al., BMVC 2021) and TokenCut (Wang et al., CVPR 2022) each find one object in each picture. CorLoc is the share
of pictures whose box has an IoU of at least 0.5 with any annotated box. Where objects have masks, the mask of patches is scored
by IoU, accuracy and the maximal F of salient object detection. The whole picture, and a box of half its area in its middle, are
scored in the same way and stand beside the method: on many data sets they are hard to beat.

- clean: TokenCut, or LOST with `--method lost`, on pictures at their own size, padded with zeros at the right and at the bottom
  to whole patches; patches that hold padding take no part. Ties go to the lowest index; IoU is exact. A graph without structure
  (one patch; more than 98 % of pairs joined, or none; an object that is the whole picture; several equal cuts) is degenerate: it
  counts as a miss, and the record names the picture.
- lost: as LOST's code (main_lost.py). Padded patches take part; the dot products of raw features; corners rounded to whole px,
  and IoU in float32 with its 1e-7. Degenerate graphs are scored like others, as there, but named.
- tokencut: the same for TokenCut's code (main_tokencut.py): cosines above tau 0.2.
- saliency: TokenCut's code for saliency. Pictures are resized by Lanczos to the nearest multiples of the patch, and masks alone
  are scored, upsampled by nearest neighbours. Neither the bilateral solver nor its filling of holes is here.

In the references, ties are left to an unstable sort and to rounding; here they go to the lowest index in every preset.

The published numbers are those of the keys of the last block, all heads side by side: `--layer key`. A notice says so where a
reference preset reads another layer, and the record holds both. For convolutional networks LOST normalises the whole map:
`--centre map`. Both methods need features whose products can be small: a large component that all patches share joins everything,
at any tau. `--centre mean` removes it; no reference does that.

tau is an axis: several are scored from one extraction and one table of cosines. LOST has none, its threshold is 0.

Truth: boxes (all classes; crowds do not count; difficult and truncated objects do, unless `--no-hard`), masks of objects, or
label maps with a background class: all that is not background. Pictures without an object are left out and counted. Each frame of
a video counts as a picture. Frames of one video are much alike, so intervals resample whole videos: they say how far the mean
over frames would move with other videos. One video, like one picture, has no interval.

Numbers to reach (CorLoc on VOC2007 trainval, VOC2012 trainval, COCO20k; DINO's keys): LOST ViT-S/16 61.9, 64.0, 50.7; ViT-S/8
55.5, 57.0, 49.5; ViT-B/16 60.1, 63.3, 50.0. TokenCut ViT-S/16 68.8, 72.1, 58.8; ViT-S/8 67.3, 71.6, 60.7; ViT-B/16 68.8, 72.4,
59.0. Saliency (max F, IoU, accuracy; ViT-S/16): ECSSD 80.3, 71.2, 91.8; DUTS-TE 67.2, 57.6, 90.3; DUT-OMRON 60.0, 53.3, 88.0.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool

from densebench.backbones.backbone import Backbone
from densebench.console import notice, warn
from densebench.datasets.boxes import Boxed
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.videos import Videos, sequence_of
from densebench.errors import UserError
from densebench.evals.discovery.findings import Finding
from densebench.evals.discovery.marks import Marks, box_mask, centre_box, marks_of, upsampled, whole_picture
from densebench.evals.discovery.pictures import draw, said
from densebench.evals.discovery.scoring import CENTRE, WHOLE, metrics, scores
from densebench.evals.discovery.search import Finder, Request
from densebench.evals.discovery.truth import BOXES, Truth, truth_in, truth_of, with_objects
from densebench.evals.discovery.views import Patches, patches_of, view_of
from densebench.evaluation.protocol import Evaluator, Run, shown_in_pictures
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction
from densebench.options import axis, runtime, setting
from densebench.processes import resolve_device
from densebench.results.score import Point, Score

REFERENCE_LAYER = "key"
AS_REFERENCE = {"padded_patches": "kept", "degenerate": "scored", "matching": "lost"}
DECIDED = {"lost": "degrees", "tokencut": "eigenvector"}
DEFAULT_TAUS = (0.2,)


@dataclass(frozen=True)
class Discovery(Evaluator):
    """Options of object discovery; see the module for what the presets are."""

    takes: ClassVar[str] = "pictures"
    needs_background: ClassVar[bool] = True
    version: ClassVar[int] = 1
    published_as: ClassVar[Mapping[str, str]] = {
        "lost": "discovery-lost", "tokencut": "discovery-tokencut", "saliency": "saliency-tokencut",
    }  # fmt: skip
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "clean": {},
        "lost": {"method": "lost", **AS_REFERENCE},
        "tokencut": {"method": "tokencut", **AS_REFERENCE},
        "saliency": {"method": "tokencut", "fit": "lanczos", "truth": "masks", **AS_REFERENCE},
    }

    method: str = setting("tokencut", "what finds the object", choices=("lost", "tokencut"))
    fit: str = setting(
        "pad", "how pictures become whole patches; lanczos: resized to the nearest multiples", choices=("pad", "lanczos")
    )
    padded_patches: str = setting("left-out", "whether patches that hold padding take part", choices=("left-out", "kept"))
    centre: str = setting(
        "none",
        "what is subtracted from a picture's features; mean: their mean patch; map: LayerNorm over the whole map, as LOST does "
        "for convolutional networks",
        choices=("none", "mean", "map"),
    )
    graph: str = setting(
        "binary", "weights of TokenCut's edges; cosine: the cosines themselves (--no-binary-graph)", choices=("binary", "cosine")
    )
    candidates: int = setting(100, "patches of smallest degree that LOST may join to the seed", minimum=1, maximum=1_000_000)
    degenerate: str = setting(
        "miss", "what a graph that shows no object counts as; scored: whatever was found", choices=("miss", "scored")
    )
    matching: str = setting(
        "exact", "IoU of boxes; lost: corners rounded to whole px, float32, 1e-7 added", choices=("exact", "lost")
    )
    hard: bool = setting(True, "whether objects that are marked as difficult or truncated count")
    truth: str | None = setting(None, "what is scored; none: all that the data set has", choices=("boxes", "masks", "both"))
    eval_split: str | None = setting(None, "split that is scored; none: the data set's own")
    tau: tuple[float, ...] = axis(DEFAULT_TAUS, "cosine above which TokenCut joins two patches", minimum=-1, maximum=1)
    visualise: int = runtime(0, "number of images to draw: box, mask, truth and the map that decided", minimum=0, maximum=100_000)

    def headline(self) -> dict[str, str]:
        """Return what tables show: CorLoc, or the IoU of masks where there are no boxes."""
        return {"metric": metrics(self.truth or BOXES)[-1], "variant": self.method}

    @classmethod
    def published_names(cls, preset: str, layer: str) -> tuple[str, ...]:
        """Return the name of the published numbers that a preset reproduces: only keys do."""
        return super().published_names(preset, layer) if layer == REFERENCE_LAYER else ()

    def decides(self) -> dict[str, Any]:
        """Return the tau of TokenCut, 0.2."""
        return {"tau": 0.2} if self.method == "tokencut" else {}

    def resolve(self, dataset: Dataset) -> Discovery:
        """Fill in split and truth. Raises UserError for a data set without objects, and for options that have no effect."""
        if self.method == "lost" and (self.tau != DEFAULT_TAUS or self.graph != "binary"):
            raise UserError("--tau and --graph belong to TokenCut; LOST joins patches whose product is above 0: leave them out")
        if self.graph == "cosine" and min(self.tau) < 0:
            raise UserError(f"--tau {min(self.tau):g} with --graph cosine gives edges of negative weight; give 0 or more")
        truth = truth_in(dataset, self.truth)
        return replace(super().resolve(dataset), truth=truth, tau=tuple(dict.fromkeys(self.tau)))

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for every tau; one for LOST."""
        return [()] if self.method == "lost" else [(("tau", tau),) for tau in self.tau]

    def scored(self, items: Sequence[Item], dataset: Dataset) -> Sequence[Item]:
        """Return the pictures that show an object."""
        return with_objects(dataset, items, truth_in(dataset, self.truth), self.hard)

    def items(self, dataset: Dataset, run: Run) -> list[Item]:
        """Return the pictures of a run; where pictures alone are wanted, those that are drawn.

        Raises UserError where no picture shows an object.
        """
        split = self.splits(dataset)[1]
        items = list(self.scored(dataset.part(split, run.limit), dataset))
        if not items:
            raise UserError(f"no picture of {dataset.name} {split} shows an object; give others, or more of them")
        return self.shown(items) if run.drawing else items

    def shown(self, items: Sequence[Item]) -> list[Item]:
        """Return the pictures that are drawn."""
        return limited(items, self.visualise) if self.visualise else []

    def extraction(self, backbone: Backbone, dataset: Dataset, items: Sequence[Item]) -> Extraction:
        """Return what is extracted: all patches of every picture."""
        return Extraction(backbone, dataset, items, view_of(self.fit, backbone), precision=self.precision)

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the features of all pictures, and the search for their objects."""
        items = self.items(dataset, run)
        return [Stage("features", items, self.extraction(backbone, dataset, items)), Stage("objects", items)]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Read which pictures show objects first (it fails early), then extract features, then score one tau after the other."""
        points = [point for point in self.points(dataset) if point not in run.known]
        with run.stage("labels"):
            items = self.items(dataset, run)
        about = self.layers(backbone)
        with run.stage("features"):
            features = self.extracted(self.extraction(backbone, dataset, items))
        view = view_of(self.fit, backbone)
        patches = {item.name: patches_of(view, backbone.stride, *dataset.image_size(item), self.padded_patches) for item in items}
        drawn = {item.name for item in self.shown(items)} if run.draws() else set[str]()
        finder = Finder(self.request(points), features, patches, resolve_device(self.device), frozenset(drawn))
        marked = _Marked(self, dataset, patches, backbone.stride)
        with run.stage("objects"):
            found = finder.all(items, marked.of)
        pictured = shown_in_pictures(self.points(dataset))
        for point, tau in zip(points, finder.request.taus, strict=True):
            findings = [finding for finding, _ in found[tau]]
            if point == pictured and drawn and run.pictures is not None:
                with run.stage("pictures"):
                    self.draw(marked, items, findings, drawn, run)
            if not run.drawing:
                self.report(findings, items, point)
                yield from self.scores(items, dataset, found[tau], point, about)

    def request(self, points: Sequence[Point]) -> Request:
        """Return what is looked for at some points."""
        taus = tuple(dict(point).get("tau") for point in points)
        miss = self.degenerate == "miss"
        return Request(self.method, taus, self.centre, self.graph == "binary", self.candidates, miss)

    def layers(self, backbone: Backbone) -> dict[str, Any]:
        """Return which layer is read and which one the reference reads; a notice says where they differ."""
        name = next((name for name in reversed([*self.published_as]) if self._agrees(self.presets[name])), "")
        if not name:
            return {"layer": backbone.layer}
        if backbone.layer != REFERENCE_LAYER:
            notice(
                f"discovery/{name} with layer {backbone.layer}: its published numbers are those of the keys of the last block; "
                f"--layer {REFERENCE_LAYER} reads them"
            )
        return {"layer": backbone.layer, "reference_layer": REFERENCE_LAYER}

    def _agrees(self, preset: Mapping[str, Any]) -> bool:
        return all(getattr(self, option) == value for option, value in preset.items())

    def report(self, findings: Sequence[Finding], items: Sequence[Item], point: Point) -> None:
        """Warn of pictures whose graph is degenerate."""
        names = [item.name for item, finding in zip(items, findings, strict=True) if finding.flaw]
        if names:
            at = f" at tau {dict(point)['tau']:g}" if point else ""
            counts = "counted as misses" if self.degenerate == "miss" else "scored as they are, as the reference does"
            warn(
                f"the graphs of {len(names)} of {len(items)} images are degenerate{at}, {counts}; the record names them, first "
                f"{names[0]}"
            )

    def scores(
        self, items: Sequence[Item], dataset: Dataset, found: Sequence[tuple[Finding, dict[str, Marks]]], point: Point,
        about: Mapping[str, Any],
    ) -> list[Score]:  # fmt: skip
        """Return the scores of a point. found: of every picture what was found, and the marks of each variant."""
        assert self.truth is not None
        marks = {variant: [of_picture[variant] for _, of_picture in found] for variant in (WHOLE, CENTRE, self.method)}
        sequences = [sequence_of(item) for item in items] if isinstance(dataset, Videos) else None
        classes = dataset.classes if isinstance(dataset, Boxed) else ()
        names, findings = [item.name for item in items], [finding for finding, _ in found]
        return scores(marks, findings, names, self.truth, sequences, classes, point, about)

    def draw(self, marked: _Marked, items: Sequence[Item], findings: Sequence[Finding], drawn: set[str], run: Run) -> None:
        """Draw the chosen pictures."""
        assert run.pictures is not None
        for item, finding in zip(items, findings, strict=True):
            if item.name in drawn:
                where = marked.patches[item.name]
                covered = (round(where.across * where.columns), round(where.down * where.rows))
                mask, truth = marked.pixels(item, finding), marked.truth(item)
                draw(marked.dataset, item, finding, mask, truth, covered, DECIDED[self.method], run.pictures)
        said(len(drawn), run.pictures)


class _Marked:
    """The marks of what was found in pictures, beside those of guesses that look at no feature."""

    def __init__(self, options: Discovery, dataset: Dataset, patches: Mapping[str, Patches], stride: int) -> None:
        self.options, self.dataset, self.patches = options, dataset, patches
        self.stride = stride if options.fit == "pad" else None
        self.truth = functools.lru_cache(maxsize=256)(self._truth)
        self.guesses = functools.lru_cache(maxsize=256)(self._guesses)

    def _truth(self, item: Item) -> Truth:
        assert self.options.truth is not None
        return truth_of(self.dataset, item, self.options.truth, self.options.hard)

    def _guesses(self, item: Item) -> dict[str, Marks]:
        truth, where = self.truth(item), self.patches[item.name]
        size = (where.width, where.height)
        boxes = {WHOLE: whole_picture(*size), CENTRE: centre_box(*size)}
        masked = truth.mask is not None
        return {
            name: marks_of(box, box_mask(box, *size) if masked else None, truth, self.options.matching)
            for name, box in boxes.items()
        }

    def pixels(self, item: Item, finding: Finding) -> Bool[np.ndarray, "h w"]:
        """Return the mask of what was found, in pixels of the picture."""
        where = self.patches[item.name]
        return upsampled(finding.mask, (where.width, where.height), self.stride)

    def of(self, item: Item, finding: Finding) -> dict[str, Marks]:
        """Return the marks of a picture by variant: the guesses, and the method."""
        truth = self.truth(item)
        mask = None if truth.mask is None else self.pixels(item, finding)
        return {**self.guesses(item), self.options.method: marks_of(finding.box, mask, truth, self.options.matching)}
