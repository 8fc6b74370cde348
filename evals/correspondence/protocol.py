"""Semantic correspondence: for each keypoint of an image, the patch of another image with the most similar feature; no training.

Measured: PCK, the share of keypoints whose match lies within alpha times a length of the truth (Yang and Ramanan, TPAMI 2013;
for two images of one category Ham et al., CVPR 2016, and Min et al., SPair-71k, 2019). Public codes differ in where a patch
lies, in how images are resized, in what becomes of the similarities and in how hits are averaged; each of these is a setting
here, and a preset is a set of settings:

- clean: native aspect, the longer side resized; what fills it up to a multiple of the stride cannot be matched. A patch lies at
  its centre in both images, source features are interpolated bilinearly and scaled to length 1, the most similar patch counts.
  Errors of at most alpha times the longer side of the target's box are right. The headline is the mean over pairs.
- probe3d: El Banani et al., Probing the 3D Awareness of Visual Foundation Models, CVPR 2024. White padding to a square at the
  right and the bottom, 800 px, filled up on all sides, which is not undone. Keypoints are truncated to whole px, source features
  are read with align_corners, and a patch lies at its corner; so a perfect matcher of an image with itself is off by up to a
  patch. Errors below alpha; mean over classes, per keypoint. It shuffles an unsorted list with seed 20 and takes 200 pairs of
  each class and level; here a sorted list is shuffled, since the reference's subset depends on the file system.
- sd-dino: Zhang et al., A Tale of Two Features, NeurIPS 2023, its DINOv2 part. 840 px, black padding on both sides, the patch
  that contains the keypoint, a patch lies half a px before its centre. Errors below alpha; mean over classes, per keypoint
  ("Average"; "Weighted" is pck_point_weighted). All pairs, as with `--SAMPLE 0` there.
- geoaware: Zhang et al., Telling Left from Right, CVPR 2024, zero-shot, without its flip: as sd-dino, but a patch lies at its
  centre, and a soft-argmax in a window of 5 patches to each side; similarities outside are 0 and still have a weight. Per image.
  The keypoints are those that the list of pairs gives; the reference takes those that the annotations of both pictures have.
- insid3: INSID3 (visinf, 2026). Squashed to a square of 768 px (1024 is the default of its code), the keypoint rounded to a
  whole cell, a kernel soft-argmax (a Gaussian of 7 cells, temperature 0.04), a patch lies at its corner on both sides. Errors of
  at most alpha; mean over pairs.
- scnet: the measure of PF-PASCAL (Han et al., SCNet, ICCV 2017; Rocco et al., NCNet, NeurIPS 2018): keypoints of the target are
  carried to the source, and errors are measured with both pictures squashed to a square; the matching is that of clean.

probe3d, sd-dino and geoaware read a ViT's last block before its final norm, insid3 after it. A preset does not choose layers:
`--layer raw` is before the norm, `last` and the numbers of blocks after it, `--layer key` are the last block's keys.

Without a box the length is the longer side of the picture, as for PF-PASCAL. Keypoints outside their picture are matched from the
nearest patch and counted. Ties go to the first patch and are counted. `--flip` also matches the mirrored source, and keeps it
where its object is nearer to the target's (as GeoAware-SC, which also exchanges left and right parts; here parts stay).

Three guesses without features are scored in the same way and printed beside: the same relative place, the centre of the target's
box, and a random patch (its expected value). Levels of a data set, such as the difference of viewpoints, are further variants.

Numbers to reach (SPair-71k): DINOv3 ViT-B, insid3, PCK at .05, .10, .15, .20: 30.1, 46.8, 55.6, 61.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, cast

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.keypoints import KeypointPairs, Pair, pictures_of_pairs
from densebench.errors import UserError
from densebench.evals.correspondence.geometry import CANDIDATES, POSITIONS, ROUNDINGS, SOURCES
from densebench.evals.correspondence.matching import OUTSIDE, Choice
from densebench.evals.correspondence.outcomes import Matcher, Rules
from densebench.evals.correspondence.pairs import THRESHOLDS, LeftOut, parts_of, turned, usable
from densebench.evals.correspondence.pictures import draw
from densebench.evals.correspondence.scoring import FEATURES, Outcome, Scorer, name_of
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction
from densebench.features.padded_views import Colour, PaddedView
from densebench.numerics.keypoints import AVERAGES
from densebench.options import axis, runtime, setting
from densebench.processes import resolve_device
from densebench.results.score import Point, Score

TEMPERATURE = 0.04
WHITE, BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
SD_DINO = {
    "image_size": 840, "fit": "square-centre", "resample": "lanczos", "padding": "black", "source": "containing",
    "position": "centre-minus-half", "candidates": "all", "strict": True, "average": "point-class",
}  # fmt: skip


@dataclass(frozen=True)
class Correspondence(Evaluator):
    """Options of semantic correspondence; see the module for what the presets are."""

    version: ClassVar[int] = 1
    takes: ClassVar[str] = "keypoint pairs"
    published_as: ClassVar[Mapping[str, str]] = {"insid3": "semantic-correspondence-insid3"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "clean": {},
        "probe3d": {
            "image_size": 800, "fit": "square-corner", "resample": "bicubic", "padding": "white", "keypoints": "truncated",
            "source": "bilinear-corners", "renormalise": False, "position": "corner", "candidates": "all", "strict": True,
            "average": "point-class", "per_class": 200,
        },
        "sd-dino": SD_DINO,
        "geoaware": {**SD_DINO, "position": "centre", "window": 5, "outside": "zero", "temperature": 0.02, "average": "image"},
        "insid3": {
            "image_size": 768, "fit": "squash", "resample": "pillow-bilinear", "source": "rounded", "position": "corner",
            "candidates": "all", "window": 7, "outside": "gaussian",
        },
        "scnet": {"threshold": "square", "reverse": True},
    }  # fmt: skip

    image_size: int | None = setting(
        None,
        "side of resized images, px: the longer one or that of a square; none: the data set's own",
        minimum=1,
        maximum=16_384,
    )
    fit: str = setting(
        "longer-side",
        "longer-side: native aspect; square-corner, square-centre: padded to a square; squash: resized to a square",
        choices=("longer-side", "square-corner", "square-centre", "squash"),
    )
    resample: str = setting(
        "bilinear",
        "how images are resized; bilinear is antialiased on floats, all others are Pillow's on bytes",
        choices=("bilinear", "pillow-bilinear", "bicubic", "lanczos"),
    )
    padding: str = setting("mean", "colour that pads to a square; mean: the backbone's", choices=("mean", "white", "black"))
    keypoints: str = setting("exact", "truncated: to whole px, before and after resizing", choices=ROUNDINGS)
    source: str = setting("bilinear", "how features are read at a source keypoint", choices=SOURCES)
    renormalise: bool = setting(True, "scale interpolated source features to length 1; matters with --window only")
    position: str = setting("centre", "where a patch of the target lies", choices=POSITIONS)
    candidates: str = setting(
        "inside", "patches that may be matched: those with a centre in the picture, or all", choices=CANDIDATES
    )
    window: int | None = setting(
        None,
        "soft-argmax over so many patches to each side of the best one; 0: over all; none: the best one",
        minimum=0,
        maximum=1000,
    )
    outside: str = setting(
        "left-out",
        "similarities outside the window: without weight, 0, or (gaussian) no window but a Gaussian of that deviation",
        choices=OUTSIDE,
    )
    temperature: float = setting(TEMPERATURE, "temperature of the soft-argmax", minimum=1e-4)
    flip: bool = setting(False, "match the mirrored source too, and keep it where its object is nearer to the target's")
    reverse: bool = setting(False, "carry the target's keypoints to the source")
    threshold: str = setting(
        "box",
        "length: longer side of the target's box (else of its picture), of its picture, or a squashed square",
        choices=THRESHOLDS,
    )
    strict: bool = setting(False, "an error is right below the threshold; else at the threshold too")
    average: str = setting("image", "average of the headline; all are recorded", choices=AVERAGES)
    per_class: int | None = setting(None, "score so many pairs of each class, drawn; none: all", minimum=1)
    eval_split: str | None = setting(None, "split that is scored; none: the data set's own")
    alphas: tuple[float, ...] = axis((0.05, 0.1, 0.15, 0.2), "thresholds as shares of the length", minimum=1e-6, maximum=10.0)
    visualise: int = runtime(0, "pairs to draw with right and wrong matches", minimum=0, maximum=100_000)

    def headline(self) -> dict[str, str]:
        """Return what tables show: the PCK of features by the preset's average."""
        return {"metric": name_of(self.average), "variant": FEATURES}

    def decides(self) -> dict[str, Any]:
        """Return the threshold that papers compare by: 0.1."""
        return {"alpha": 0.1}

    def resolve(self, dataset: Dataset) -> Correspondence:
        """Fill in the split, and drop thresholds that are given twice. Raises UserError for options that have no effect."""
        if self.window is None and (self.temperature != TEMPERATURE or self.outside != "left-out"):
            raise UserError("--temperature and --outside belong to the soft-argmax: give --window N too, or leave them out")
        return replace(super().resolve(dataset), alphas=tuple(dict.fromkeys(self.alphas)))

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for every threshold."""
        return [(("alpha", alpha),) for alpha in self.alphas]

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the features of the pictures, those of mirrored sources with --flip, and the matching."""
        pairs, _, _ = self.pairs(dataset, run)
        wanted = self.extractions(backbone, dataset, pairs)
        names = ("features", "features of mirrored sources")
        stages = [Stage(name, each.items, each) for name, each in zip(names, wanted, strict=False)]
        return [*stages, Stage("matching", wanted[0].items)]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Read pairs first (they fail early), then extract the features of each picture once, then match pair by pair."""
        alphas = [(number, alpha) for number, alpha in enumerate(self.alphas) if (("alpha", alpha),) not in run.known]
        pairs, parts, left_out = self.pairs(dataset, run)
        with run.stage("features"):
            features = [self.extracted(each) for each in self.extractions(backbone, dataset, pairs)]
        with run.stage("matching"):
            view = self.view(backbone, dataset)
            matcher = Matcher(self.rules(), dataset, view, backbone.stride, features, resolve_device(self.device))
            shown = limited(sorted(parts[""]), self.visualise) if self.visualise and run.draws() else []
            wanted = shown if run.drawing else sorted({index for of_part in parts.values() for index in of_part})
            outcomes = dict(zip(wanted, matcher.outcomes([pairs[index] for index in wanted]), strict=True))
        if shown and run.pictures is not None:
            draw(dataset, [(pairs[index], outcomes[index]) for index in shown], self.rules(), run.pictures)
        if run.drawing:
            return
        details = self.details(dataset, [(pairs[index], outcomes[index]) for index in parts[""]], left_out)
        scorer = Scorer(outcomes, [pair.category for pair in pairs], parts, self.average)
        for number, alpha in alphas:
            with run.stage("scoring"):
                scores = list(scorer.scores(number, alpha, details))
            yield from scores

    def pairs(self, dataset: Dataset, run: Run) -> tuple[list[Pair], dict[str, list[int]], LeftOut]:
        """Return the pairs that can be scored, the indices of those of all levels and of each, and the pairs that are left out.

        Raises UserError where no pair can be scored.
        """
        split = self.splits(dataset)[1]
        listed = cast(KeypointPairs, dataset).pairs(split, run.limit)
        pairs, left_out = usable([turned(pair) for pair in listed] if self.reverse else listed, self.threshold)
        if not pairs:
            bare, sizeless = len(left_out.without_keypoints), len(left_out.box_without_size)
            raise UserError(
                f"none of the {len(listed)} pairs of {dataset.name} {split} can be scored: {bare} have no keypoint in both "
                f"pictures, {sizeless} have a box without size; give more pairs, or --threshold picture"
            )
        return pairs, parts_of(pairs, self.per_class), left_out

    def view(self, backbone: Backbone, dataset: Dataset) -> PaddedView:
        """Return the view of every picture. Raises UserError where a size that is not filled up does not fit the backbone."""
        size = self.image_size or max(1, dataset.image_size_hint // backbone.multiple) * backbone.multiple
        if self.fit in ("squash", "square-centre"):
            backbone.check_size(size, size)
        mean = cast(Colour, tuple(backbone.mean))
        colour = {"white": WHITE, "black": BLACK, "mean": mean}[self.padding]
        return PaddedView(backbone.multiple, size, self.fit, self.resample, colour, mean)  # type: ignore[arg-type]

    def extractions(self, backbone: Backbone, dataset: Dataset, pairs: Sequence[Pair]) -> list[Extraction]:
        """Return what is extracted: all pictures and, with --flip, the sources mirrored."""
        view = self.view(backbone, dataset)
        wanted: list[tuple[Sequence[Item], PaddedView]] = [(pictures_of_pairs(pairs), view)]
        if self.flip:
            wanted.append((list(dict.fromkeys(pair.source for pair in pairs)), replace(view, mirrored=True)))
        return [Extraction(backbone, dataset, items, each, precision=self.precision) for items, each in wanted]

    def rules(self) -> Rules:
        """Return the settings by which keypoints are placed, matched and judged."""
        choice = Choice(self.window, self.outside, self.temperature)
        return Rules(
            self.keypoints, self.source, self.renormalise, self.position, self.candidates, choice, self.threshold, self.strict,
            self.alphas,
        )  # fmt: skip

    def details(self, dataset: Dataset, found: Sequence[tuple[Pair, Outcome]], left_out: LeftOut) -> dict[str, Any]:
        """Return what a reader should know of the pairs: the lengths, what is outside, ties, and what is left out, if any."""
        boxed = sum(self.threshold == "box" and pair.target_box is not None for pair, _ in found)
        lengths = {"square": len(found)} if self.threshold == "square" else {"box": boxed, "picture": len(found) - boxed}
        counts = {
            "ties": sum(outcome.ties for _, outcome in found),
            "constant_pairs": sum(outcome.constant for _, outcome in found),
            "flipped_pairs": sum(outcome.flipped for _, outcome in found),
            "source_points_outside": sum(outcome.outside[0] for _, outcome in found),
            "target_points_outside": sum(outcome.outside[1] for _, outcome in found),
        }
        lists = {name: list(names) for name, names in asdict(left_out).items() if names}
        return {"lengths": {name: count for name, count in lengths.items() if count}, **counts, **lists}
