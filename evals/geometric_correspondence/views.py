"""Two views of one surface with depth and cameras: are the kept matches near each other in space, or in the picture?

El Banani et al., Probing the 3D Awareness of Visual Foundation Models (Probe3D), CVPR 2024; no training. The features of the
surface's points in one view are matched with those in the other by cosine, the matches with the largest ratio weight 1 - d1 /
d2 are kept (d: 1 - cosine, at least 1e-9), and each kept point is moved into the other camera: its error is the distance to its
match, in space (cm) or as the two are seen there (px). Recall is the share of errors *below* a threshold.

- navi (`navi/probe3d` in tables of others): a square around the object at 512 px, points on a quarter grid of 128 x 128,
  features enlarged to it bicubically (align_corners False), the 1,000 largest weights, thresholds 1, 2, 5 cm and 5, 25, 50 px
  of the 512, edges of the bins
  of rotation 0, 30, 60, 90, 120 degrees. Every fourth pair, as the code keeps (`instances[::4]`, which no text mentions).
- scannet1500 (`scannet/probe3d`): pictures of 640 x 480 px, mean and standard deviation 0.5 for every backbone, points on a
  quarter grid of 160 x 120, features looked up bilinearly where the points are seen, thresholds 5, 10, 20 px *of the quarter
  grid* (so 20, 40, 80 px of the picture), edges of the bins 0, 15, 30, 60, 180 degrees.
- clean: the whole picture at a longer side of 640 px without a border, features looked up bilinearly, all pairs, px of the
  whole picture.

Which pairs: those of the data set in its fixed order; the digest of the list that was scored is in the record (`pairs_sha256`).
Probe3D draws NAVI's pairs in the order of its file system, so its numbers are of other pairs of the same pictures. Probe3D
reads the last block without its final norm; here the backbone's own features are read, see `--layer`. Where a pair has fewer
points than are kept, Probe3D fails; here all of them are kept, and `fewer_than_kept` counts such pairs. The reference pools all
matches; with equally many in each pair that is the mean over pairs which is given here.

Kept matches are the headline, named by their count; `auc` is their mean recall over all thresholds up to the one given; `all`
has every point of the source. `same place` takes the point at the same place of the other picture without looking (wrong where
nothing is known there), `chance` a random point (for up to 64 points of a pair).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.console import notice, progress, warn
from densebench.costs import measured
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.view_pairs import ViewPair, ViewPairs, pictures_of_views
from densebench.errors import UserError
from densebench.evals.geometric_correspondence.drawing import LEGEND, matches_drawn
from densebench.evals.geometric_correspondence.errors import VALUES, errors, shares_of_pair
from densebench.evals.geometric_correspondence.frames import (
    CentrePaddedView,
    Framed,
    Surface,
    frame_of,
    sampled,
    surface_of,
)
from densebench.evals.geometric_correspondence.geometry import moved, rotation_angle
from densebench.evals.geometric_correspondence.matching import largest, ratio_weights, two_nearest
from densebench.evals.geometric_correspondence.scoring import Bins, binned_scores, counts_of, mean_score, warn_of_one_target
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction, Features, Normalisation
from densebench.features.views import to_tensor
from densebench.files.atomic import digest
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.options import axis, runtime, setting
from densebench.pictures.canvas import save
from densebench.processes import collected, dealt, in_order, resolve_device
from densebench.results.baselines import MARK
from densebench.results.score import Point, Score

HALF = (0.5, 0.5, 0.5)
FACTS = ("points", "one target", "fewer")
"""What is known of a pair besides its recalls: points of the source, and whether all have one match, or fewer than are kept."""


@dataclass(frozen=True)
class Views(Evaluator):
    """Options of matching two views of a surface; see the module for what the presets are."""

    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "navi": {},
        "scannet1500": {
            "frame": "fixed",
            "image_size": 640,
            "sampling": "bilinear",
            "colour": "half",
            "every": 1,
            "cm": None,
            "px": (5, 10, 20),
            "rotation_bins": (0, 15, 30, 60, 180),
        },
        "clean": {"frame": "whole", "image_size": 640, "sampling": "bilinear", "every": 1},
    }
    takes: ClassVar[str] = "view pairs"

    frame: str = setting("object", "how pictures are cut and resized, see the protocol", choices=("object", "fixed", "whole"))
    image_size: int = setting(512, "longer side of the frame in px", minimum=4, maximum=16_384)
    step: int = setting(4, "every so many px of the frame there is a point", minimum=1, maximum=1024)
    sampling: str = setting("bicubic", "how features of points are taken from patches", choices=("bicubic", "bilinear"))
    colour: str = setting("backbone", "colour statistics; half: 0.5 for all", choices=("backbone", "half"))
    every: int = setting(4, "of so many pairs one is scored, the first one of all", minimum=1)
    kept: int = setting(1000, "matches of a pair that the ratio test keeps", minimum=1)
    rotation_bins: tuple[int, ...] = setting(
        (0, 30, 60, 90, 120), "edges of the bins of rotation, degrees", minimum=0, maximum=360
    )
    eval_split: str | None = setting(None, "split that is scored; none: the data set's own")
    cm: tuple[int, ...] | None = axis((1, 2, 5), "thresholds of the error in space, in cm; none: none", minimum=1)
    px: tuple[int, ...] | None = axis((5, 25, 50), "thresholds of the error in the picture, in px; none: none", minimum=1)
    visualise: int = runtime(0, "number of pairs to draw, with right and wrong matches", minimum=0, maximum=100_000)

    def headline(self) -> dict[str, str]:
        """Return what tables show: the recall of the matches that are kept."""
        return {"metric": "recall", "variant": f"{self.kept} kept"}

    def decides(self) -> dict[str, Any]:
        """Return the threshold that Probe3D bins by rotation: 2 cm, or 10 px where there are none in cm."""
        return {"cm": 2} if self.cm else {"px": 10}

    def resolve(self, dataset: Dataset) -> Views:
        """Fill in the split. Raises UserError without any threshold, and for bins that do not rise."""
        if not (self.cm or self.px):
            raise UserError("--cm none and --px none leave no threshold; give one of them")
        if len(self.rotation_bins) < 2 or sorted(set(self.rotation_bins)) != list(self.rotation_bins):
            raise UserError(f"--rotation-bins {','.join(map(str, self.rotation_bins))}: give two edges or more, in rising order")
        cm, px = (tuple(dict.fromkeys(values)) if values else None for values in (self.cm, self.px))
        return replace(super().resolve(dataset), cm=cm, px=px)

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for each threshold."""
        return [*((("cm", value),) for value in self.cm or ()), *((("px", value),) for value in self.px or ())]

    def scored(self, items: Sequence[Item], dataset: Dataset) -> Sequence[Item]:
        """Return the pictures of the pairs that are scored."""
        views = cast(ViewPairs, dataset)
        if len(items) < len(views.items(self.splits(dataset)[1])):
            return items  # those of a --limit
        used = {*pictures_of_views(self.pairs(views, None))}
        return [item for item in items if item in used]

    def pairs(self, dataset: ViewPairs, limit: int | None) -> list[ViewPair]:
        """Return the pairs that are scored; with a limit, so many of all."""
        split = self.splits(dataset)[1]
        return dataset.pairs(split)[:: self.every] if limit is None else dataset.pairs(split, limit)

    def framed(self, dataset: ViewPairs, pairs: Sequence[ViewPair], multiple: int) -> Framed:
        """Return the pictures as the backbone sees them; each process looks at the depth of some of them."""
        items = pictures_of_views(pairs)
        found = collected([frame_of(dataset, item, self.frame, self.image_size, multiple) for item in dealt(items)])  # type: ignore[arg-type]
        frames = {item.name: frame for item, frame in zip(items, found, strict=True) if frame is not None}
        return Framed(root=dataset.root, name=dataset.name, code=dataset.code, source=dataset, frames=frames)

    def extraction(self, backbone: Backbone, framed: Framed, pairs: Sequence[ViewPair]) -> Extraction:
        """Return what is extracted: every picture that has a frame."""
        mean = HALF if self.colour == "half" else backbone.mean
        colours = Normalisation(HALF, HALF) if self.colour == "half" else None
        items = [item for item in pictures_of_views(pairs) if item.name in framed.frames]
        view = CentrePaddedView(backbone.multiple, fill=mean)
        return Extraction(backbone, framed, items, view, normalisation=colours, precision=self.precision)

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the features of all pictures, and the matching."""
        views = cast(ViewPairs, dataset)
        pairs = self.pairs(views, run.limit)
        extraction = self.extraction(backbone, self.framed(views, pairs, backbone.multiple), pairs)
        return [Stage("features", extraction.items, extraction), Stage("matching", extraction.items)]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Read depth (it fails early), then extract features, match every pair, and score the thresholds that are not known."""
        views = cast(ViewPairs, dataset)
        pairs = self.pairs(views, run.limit)
        with run.stage("depth"):
            framed = self.framed(views, pairs, backbone.multiple)
            shown = [pair for pair in pairs if {pair.source.name, pair.target.name} <= framed.frames.keys()]
        if not shown:
            raise UserError(f"no pair of {dataset.name} has two pictures with a known depth; give other pairs")
        with run.stage("features"):
            features = self.extracted(self.extraction(backbone, framed, pairs))
        with run.stage("pictures"):
            self.draw(shown, framed, features, run)
        if run.drawing:
            return
        with run.stage("matching"):
            rows = self.rows(shown, framed, features)
        yield from self.scores(rows, pairs, shown, run)

    def rows(self, pairs: Sequence[ViewPair], framed: Framed, features: Features) -> Float[Tensor, "pairs values"]:
        """Return for each pair its shares, VALUES by threshold, then FACTS.

        Each process matches some of the pairs, and gets the rows of all.
        """
        device, own = resolve_device(self.device), dealt(pairs)

        def queued() -> Iterator[tuple[ViewPair, Surface, Surface, HostCopy, HostCopy]]:
            for pair in own:
                surfaces = self.surfaces(pair, framed)
                with measured("matching", device, images=1):
                    found = self.matched(pair, surfaces, features, device)
                yield pair, *surfaces, *map(HostCopy, found)

        rows = [torch.zeros(0, len(VALUES) * len(self.thresholds()) + len(FACTS), dtype=torch.float64)]
        with progress("matching", len(own), "pairs") as bar:
            for pair, source, target, distances, match in one_late(queued(), device):
                rows.append(self.row(pair, source, target, distances.value(), match.value())[None])
                bar.advance()
        return in_order(torch.cat(rows))

    def thresholds(self) -> list[tuple[str, int]]:
        """Return the unit and the value of each threshold."""
        return [*(("cm", value) for value in self.cm or ()), *(("px", value) for value in self.px or ())]

    def limits(self) -> list[tuple[str, float]]:
        """Return the unit and the value of each threshold, in metres and px."""
        return [(unit, value / 100 if unit == "cm" else float(value)) for unit, value in self.thresholds()]

    def surfaces(self, pair: ViewPair, framed: Framed) -> tuple[Surface, Surface]:
        """Return what both pictures of a pair show."""
        source, target = (
            surface_of(framed.frames[item.name], framed.source.depth(item), camera, self.step)
            for item, camera in ((pair.source, pair.source_camera), (pair.target, pair.target_camera))
        )
        return source, target

    def matched(
        self, pair: ViewPair, surfaces: tuple[Surface, Surface], features: Features, device: torch.device
    ) -> tuple[Float[Tensor, "n 2"], Int[Tensor, "n"]]:
        """Return the two smallest distances of each point of the source, and the point of the target that is nearest."""
        source, target = (
            sampled(on_device(features[item], device), surface, self.sampling)
            for item, surface in zip((pair.source, pair.target), surfaces, strict=True)
        )
        if not len(source) or not len(target):
            return source.new_zeros(0, 2, dtype=torch.float32), torch.zeros(0, dtype=torch.int64, device=device)
        return two_nearest(source, target)

    def row(
        self, pair: ViewPair, source: Surface, target: Surface, distances: Float[Tensor, "n 2"], match: Int[Tensor, "n"]
    ) -> Float[Tensor, "values"]:
        """Return the row of a pair; NaN where a picture has no point on the grid."""
        if not len(match):
            return torch.full((len(VALUES) * len(self.thresholds()) + len(FACTS),), torch.nan, dtype=torch.float64)
        true = moved(source.points, torch.from_numpy(pair.rotation), torch.from_numpy(pair.translation))
        kept = largest(ratio_weights(distances), self.kept)
        shares = shares_of_pair(true, source, target, match, kept, self.limits())
        facts = [float(len(match)), float(len(match.unique()) == 1 < len(match)), float(len(match) < self.kept)]
        return torch.cat([shares.flatten(), torch.tensor(facts, dtype=torch.float64)])

    def scores(
        self, rows: Float[Tensor, "pairs values"], pairs: Sequence[ViewPair], shown: Sequence[ViewPair], run: Run
    ) -> Iterator[Score]:
        """Yield the scores of every threshold that is not known. Raises UserError where no pair has a point."""
        count = len(self.thresholds())
        shares = rows[:, : len(VALUES) * count].unflatten(1, (count, len(VALUES)))
        facts = dict(zip(FACTS, rows.T[-len(FACTS) :], strict=True))
        scored = ~facts["points"].isnan()
        left_out = [pair.name for pair in pairs if pair not in shown]
        left_out += [pair.name for pair, has in zip(shown, scored.tolist(), strict=True) if not has]
        if not scored.any():
            raise UserError("no pair has a point with a known depth on the grid; lower --step")
        if left_out:
            warn(f"{len(left_out)} of {len(pairs)} pairs show no surface with a known depth and are left out: {left_out[0]}, ...")
        warn_of_one_target(int(facts["one target"].nansum()), int(scored.sum()))
        angles = torch.tensor([rotation_angle(torch.from_numpy(pair.rotation)) for pair in shown], dtype=torch.float64)
        bins: Bins = {"rotation": (angles.where(scored, torch.nan), [float(edge) for edge in self.rotation_bins])}
        details = {
            "pairs": int(scored.sum()),
            "pairs_sha256": digest([pair.facts() for pair in pairs]),
            "left_out": left_out,
            "points": int(facts["points"].nansum()),
            "fewer_than_kept": int(facts["fewer"].nansum()),
            "one_target": int(facts["one target"].nansum()),
            "bins": counts_of(bins),
        }
        for number, threshold in enumerate(self.thresholds()):
            if (threshold,) in run.known:
                continue
            kept, every, same_place, chance, area = shares[:, number].unbind(1)
            for variant, values in (("chance", chance), ("same place", same_place)):
                yield from mean_score("recall", variant, values, (threshold,), {**MARK})
            yield from mean_score("recall", "all", every, (threshold,), {})
            yield from mean_score("auc", self.headline()["variant"], area, (threshold,), {})
            yield from binned_scores(kept, bins, (threshold,))
            yield from mean_score("recall", self.headline()["variant"], kept, (threshold,), details, resampled=True)

    def draw(self, pairs: Sequence[ViewPair], framed: Framed, features: Features, run: Run) -> None:
        """Write `<pair>.png` of some pairs: lines between a few of the kept points and their matches."""
        if run.pictures is None or not self.visualise:
            return
        (unit, limit), (_, shown) = (each[len(self.cm or ()) // 2] for each in (self.limits(), self.thresholds()))
        for pair in limited(pairs, self.visualise):
            source, target = surfaces = self.surfaces(pair, framed)
            distances, match = (each.cpu() for each in self.matched(pair, surfaces, features, resolve_device(self.device)))
            if not len(match):
                continue
            kept = largest(ratio_weights(distances), self.kept)
            true = moved(source.points[kept], torch.from_numpy(pair.rotation), torch.from_numpy(pair.translation))
            wrong = errors(true, target.points[match[kept]], target.focal)[unit] >= limit
            pictures = [framed.image(item) for item in (pair.source, pair.target)]
            sizes = [torch.tensor(picture.size, dtype=torch.float64) for picture in pictures]
            places, ends = source.places[kept] * sizes[0], target.places[match[kept]] * sizes[1]
            picture = matches_drawn([to_tensor(each) for each in pictures], places, ends, ~wrong)
            described = f"two views and the kept matches; a match is right within {shown} {unit}"
            save(picture, run.pictures / f"{pair.name.replace('/', '-')}.png", description=described, legend=LEGEND[:2])
        notice(f"pictures of pairs are in {run.pictures}")
