"""Geometric correspondence: is the most similar patch of a warped picture, or of another view, the right one?

Dense matching without training, where the truth is exact. No paper defines this protocol (VisBench has a variant of its own), so
its numbers can be compared with each other only.

- homography: each picture is resized to a square of 448 px and warped by one random homography, drawn from the picture's own
  bytes: a rotation of up to 45 degrees, a factor of 1 / 1.4 to 1.4, and corners that move by up to a tenth of the side. Draws
  whose quad is not convex, or that keep less than half of either picture in view, are rejected. The warped picture is sampled
  bilinearly and is black outside. A picture under `--corrupt` has other bytes than the clean one, so another warp.

Queries are the patches of the picture that lie in the warped picture as a whole. Each one's match is the patch of the warped
picture with the greatest cosine, of all patches; the lowest index wins a tie. Its error is the distance between the match's
centre and the true place of the query's centre. Recall is the share of queries whose error is *below* a threshold, in px of the
square (448 by default) or in sides of a patch (finer grids have finer ones, those of `--upsample` too), averaged over pictures.
On a grid of patches of side s, even the right patch may be s / 1.41 px off.

Besides `all` queries: `kept` are those whose nearest patch is much nearer than the second (Probe3D's ratio test, the greater
weights first, `--kept` at most and `--kept-share` of the queries); `mutual` is the share of right matches among those that are
each other's nearest; bins are of the homography's rotation (degrees), scale and tilt (scale at one corner over that at
another). `same place` takes the patch at the same index without looking, `chance` is a random patch: both stand beside every
table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.console import notice, progress
from densebench.costs import measured
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.errors import UserError
from densebench.evals.geometric_correspondence.drawing import LEGEND, matches_drawn
from densebench.evals.geometric_correspondence.matching import is_mutual, largest, ratio_weights, shares_within, two_nearest
from densebench.evals.geometric_correspondence.scoring import Bins, binned_scores, counts_of, mean_score, warn_of_one_target
from densebench.evals.geometric_correspondence.truth import Truth, truth_of
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction, Features
from densebench.features.views import View
from densebench.features.warped import WarpedView
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.options import axis, runtime, setting
from densebench.pictures.canvas import save
from densebench.processes import dealt, in_order, resolve_device
from densebench.results.baselines import MARK
from densebench.results.score import Point, Score

EDGES: Mapping[str, tuple[float, ...]] = {
    "rotation": (0.0, 15.0, 30.0, 45.0, 180.0),
    "scale": (0.0, 0.8, 1.0, 1.25, 100.0),
    "tilt": (1.0, 1.2, 1.5, 2.0, 100.0),
}
AT_ONCE = 2**22  # pairs of places whose distances are computed for chance: bounds the memory
FACTS = ("queries", "error px", "error patches", "mutual", "one target", *EDGES)
"""What is known of a pair besides its recalls; errors are medians over its queries."""


@dataclass(frozen=True)
class Homography(Evaluator):
    """Options of matching pictures with their warps; see the module for what the preset is."""

    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"homography": {}}
    takes: ClassVar[str] = "pictures"

    image_size: int = setting(448, "side of the square to which pictures are resized, in px", minimum=1, maximum=16_384)
    rotation: float = setting(45.0, "largest rotation of a warp, in degrees", minimum=0, maximum=180)
    scale: float = setting(1.4, "largest factor of a warp; the smallest is 1 over it", minimum=1, maximum=10)
    jitter: float = setting(0.1, "how far a corner moves besides, as a share of the side", minimum=0, maximum=0.5)
    overlap: float = setting(0.5, "least share that a picture and its warp both have in view", minimum=0, maximum=1)
    warp_seed: int = setting(0, "seed of the warps, beside each picture's own bytes", minimum=0)
    kept: int = setting(1000, "matches that the ratio test keeps at most", minimum=1)
    kept_share: float = setting(0.2, "share of the queries that the ratio test keeps at most", minimum=1e-6, maximum=1)
    eval_split: str | None = setting(None, "split that is scored; none: the data set's own")
    px: tuple[int, ...] = axis((8, 16, 32), "thresholds of the error in px", minimum=1, maximum=16_384)
    patches: tuple[int, ...] = axis((1, 2), "thresholds of the error in sides of a patch", minimum=1, maximum=1024)
    visualise: int = runtime(0, "number of pictures to draw, with right and wrong matches", minimum=0, maximum=100_000)

    def headline(self) -> dict[str, str]:
        """Return what tables show: the recall of all queries."""
        return {"metric": "recall", "variant": "all"}

    def decides(self) -> dict[str, Any]:
        """Return the threshold of 16 px, which means the same for every stride."""
        return {"px": 16}

    def resolve(self, dataset: Dataset) -> Homography:
        """Fill in the split; a threshold given twice counts once."""
        return replace(super().resolve(dataset), px=tuple(dict.fromkeys(self.px)), patches=tuple(dict.fromkeys(self.patches)))

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for each threshold."""
        return [*((("patches", value),) for value in self.patches), *((("px", value),) for value in self.px)]

    def views(self, backbone: Backbone) -> tuple[View, WarpedView]:
        """Return the view of pictures, and that of their warps. Raises UserError where the size does not fit the backbone."""
        backbone.check_size(self.image_size, self.image_size)
        warped = WarpedView(
            backbone.multiple, self.image_size, jitter=self.jitter, rotation=self.rotation, scale=self.scale,
            overlap=self.overlap, warp_seed=self.warp_seed,
        )  # fmt: skip
        return View(backbone.multiple, self.image_size), warped

    def extractions(self, backbone: Backbone, dataset: Dataset, items: Sequence[Item]) -> tuple[Extraction, Extraction]:
        """Return what is extracted: pictures and their warps."""
        source, warped = (
            Extraction(backbone, dataset, items, view, precision=self.precision, label=label)
            for view, label in zip(self.views(backbone), ("pictures", "warped pictures"), strict=True)
        )
        return source, warped

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the features of pictures and of their warps, and the matching."""
        items = dataset.part(self.splits(dataset)[1], run.limit)
        source, warped = self.extractions(backbone, dataset, items)
        stages = [Stage("features of pictures", items, source), Stage("features of warped pictures", items, warped)]
        return [*stages, Stage("matching", items)]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Extract features, match every picture with its warp, and score all thresholds that are not known yet."""
        items = dataset.part(self.splits(dataset)[1], run.limit)
        wanted = self.extractions(backbone, dataset, items)
        with run.stage("features"):
            features = [self.extracted(each) for each in wanted]
        with run.stage("pictures"):
            self.draw(backbone, dataset, items, wanted, features, run)
        if run.drawing:
            return
        with run.stage("matching"):
            rows = self.rows(backbone, dataset, items, wanted, features)
        yield from self.scores(rows, dataset, run)

    def rows(
        self,
        backbone: Backbone,
        dataset: Dataset,
        items: Sequence[Item],
        wanted: Sequence[Extraction],
        features: Sequence[Features],
    ) -> Float[Tensor, "pairs values"]:
        """Return for each pair its shares (all, kept, mutual, same place, chance) at each threshold, then FACTS; NaN without
        queries.

        Each process matches some of the pictures, and gets the rows of all.
        """
        device, own = resolve_device(self.device), dealt(items)
        limits = [float(value) for value in (*(value * backbone.stride for value in self.patches), *self.px)]

        def queued() -> Iterator[tuple[Truth, HostCopy, HostCopy]]:
            for item in own:
                truth = self.truth(backbone, dataset, item, wanted)
                with measured("matching", device, images=1):
                    source, target = (on_device(each[item], device) for each in features)
                    distances, match = matched(source, target, truth.queries)
                yield truth, HostCopy(distances), HostCopy(match)

        rows = [torch.zeros(0, 5 * len(limits) + len(FACTS), dtype=torch.float64)]
        with progress("matching", len(own)) as bar:
            for truth, distances, match in one_late(queued(), device):
                rows.append(self.row(truth, distances.value(), match.value(), limits, backbone.stride)[None])
                bar.advance()
        return in_order(torch.cat(rows))

    def truth(self, backbone: Backbone, dataset: Dataset, item: Item, wanted: Sequence[Extraction]) -> Truth:
        """Return where the patches of a picture are in its warp."""
        view = wanted[1].view
        assert isinstance(view, WarpedView)
        size = dataset.image_size(item)
        return truth_of(view.homography(*size, wanted[1].digests[item.name]), view.shape(*size), backbone.stride)

    def row(
        self, truth: Truth, distances: Float[Tensor, "n 2"], match: Int[Tensor, "n 2"], limits: Sequence[float], stride: int
    ) -> Float[Tensor, "values"]:
        """Return the row of a pair; match: of each query the nearest patch, and whether the two are each other's nearest."""
        if not len(truth.queries):
            return torch.full((5 * len(limits) + len(FACTS),), torch.nan, dtype=torch.float64)
        errors = (truth.centres[match[:, 0]] - truth.places).norm(dim=1)
        kept = largest(ratio_weights(distances), min(self.kept, share_of(self.kept_share, len(errors))))
        mutual = match[:, 1].bool()
        guessed = (truth.centres[truth.queries] - truth.places).norm(dim=1)
        groups = (errors, errors[kept], errors[mutual], guessed, anywhere(truth))
        median = float(errors.quantile(0.5))
        facts = [len(errors), median, median / stride, int(mutual.sum()), len(match[:, 0].unique()) == 1 < len(errors)]
        shares = torch.stack([shares_within(group, limits) for group in groups], 1)
        return torch.cat([shares.flatten(), torch.tensor([*map(float, facts), *truth.measures], dtype=torch.float64)])

    def scores(self, rows: Float[Tensor, "pairs values"], dataset: Dataset, run: Run) -> Iterator[Score]:
        """Yield the scores of every point that is not known. Raises UserError where no pair has a query."""
        points = self.points(dataset)
        shares, facts = (
            rows[:, : 5 * len(points)].unflatten(1, (len(points), 5)),
            dict(zip(FACTS, rows.T[-len(FACTS) :], strict=True)),
        )
        scored = ~facts["queries"].isnan()
        if not scored.any():
            raise UserError(
                f"no patch of {dataset.name} lies in the warped picture as a whole; raise --image-size or lower --scale, --jitter"
            )
        warn_of_one_target(int(facts["one target"][scored].sum()), int(scored.sum()))
        bins: Bins = {name: (facts[name], edges) for name, edges in EDGES.items()}
        details = {
            "pairs": int(scored.sum()),
            "without_queries": int((~scored).sum()),
            "queries": int(facts["queries"].nansum()),
            "mutual": int(facts["mutual"].nansum()),
            "median_error_px": round(float(facts["error px"].nanmean()), 4),
            "median_error_patches": round(float(facts["error patches"].nanmean()), 4),
            "one_target": int(facts["one target"].nansum()),
            "bins": counts_of(bins),
        }
        for number, point in enumerate(points):
            if point in run.known:
                continue
            of_all, kept, mutual, same_place, chance = shares[:, number].unbind(1)
            for variant, values in (("chance", chance), ("same place", same_place)):
                yield from mean_score("recall", variant, values, point, {**MARK})
            yield from mean_score("recall", "kept", kept, point, {})
            yield from mean_score("precision", "mutual", mutual, point, {"pairs": int((~mutual.isnan()).sum())})
            yield from binned_scores(of_all, bins, point)
            yield from mean_score("recall", "all", of_all, point, details, resampled=True)

    def draw(
        self, backbone: Backbone, dataset: Dataset, items: Sequence[Item], wanted: Sequence[Extraction],
        features: Sequence[Features], run: Run,
    ) -> None:  # fmt: skip
        """Write `<image>.png` of some pictures: the picture and its warp, and lines from a few queries to their matches."""
        if run.pictures is None or not self.visualise:
            return
        device, limit = resolve_device(self.device), float(self.px[len(self.px) // 2])
        chosen = limited(items, self.visualise)
        for item in chosen:
            truth = self.truth(backbone, dataset, item, wanted)
            source, target = (on_device(each[item], device) for each in features)
            _, match = matched(source, target, truth.queries)
            shown = [each.decoded(item) for each in wanted]
            ends = truth.centres[match[:, 0].cpu()]
            right = (ends - truth.places).norm(dim=1) < limit
            picture = matches_drawn(shown, truth.centres[truth.queries], ends, right, truth.places)
            description = f"a picture, its warp, and matches of patches; a match is right within {limit:g} px"
            save(picture, run.pictures / f"{item.name.replace('/', '-')}.png", description=description, legend=LEGEND)
        notice(f"pictures of {len(chosen)} pairs are in {run.pictures}")


def share_of(share: float, count: int) -> int:
    """Return a share of a count, rounded down, 1 at least; 0.29 of 100 are 29, though their product is below it in floats."""
    return max(1, int(share * count + 1e-9))


def anywhere(truth: Truth) -> Float[Tensor, "pairs"]:
    """Return the errors of all matches that queries could have; of very fine grids some queries, spread evenly, stand for all."""
    some = limited(range(len(truth.places)), max(1, AT_ONCE // len(truth.centres)))
    return torch.cdist(truth.places[list(some)], truth.centres).flatten()


def matched(
    source: Float[Tensor, "gh gw d"], target: Float[Tensor, "gh gw d"], queries: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, "n 2"]]:
    """Return the cosine distances of each query to its two nearest patches, and the nearest one's index beside 1 if it is mutual.

    Two are mutual where each is the other's nearest.
    """
    every, others = source.flatten(0, 1), target.flatten(0, 1)
    rows = on_device(queries, source.device)
    if not len(queries):
        return every.new_zeros(0, 2, dtype=torch.float32), rows.new_zeros(0, 2)
    distances, match = two_nearest(every[rows], others)
    return distances, torch.stack([match, is_mutual(every, others, rows, match).long()], 1)
