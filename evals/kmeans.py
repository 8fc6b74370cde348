"""K-means of patch features: how well clusters that saw no label agree with classes.

Ziegler and Asano, Leopart: Self-Supervised Learning of Object Parts for Semantic Segmentation, CVPR 2022. Patch features of the
scored images alone are clustered (no training image, no label); then each cluster is matched with a class by the labels. K = the
number of classes is "clustering", larger K is "over-clustering". The same words mean different things in different papers:

- leopart: 448 px; features standardised, PCA to 50 dimensions; K-means of 100 iterations, the best of 5 restarts, on 256 random
  tokens a cluster (a default of faiss that no paper states: 21 clusters are made from 5,376 of the 1.5 million tokens of VOC);
  cluster maps and label maps at 100 x 100, both by nearest neighbours; absent classes counted as 0. K = classes: Hungarian on
  IoU; any other K: every cluster takes its most frequent class. Five seeds.
- leopart-exact: the same without the last, incomplete batch of 60 images, as in the reference: 1440 of VOC's 1449 images.
- neco: NeCo (Pariza et al., ICLR 2025), tables 1 and 7: as Leopart; ADE20K has a class 0 that is never right. Its appendix names
  a Hungarian matching after the majority one; the code has none, and it would change nothing unless a class got no cluster.
- croc: CrOC (Stegmuller et al., CVPR 2023) used Leopart's code.
- timet: TimeT (Salehi et al., ICCV 2023): features, after the PCA, are upsampled bilinearly to 112 x 112 before they are
  clustered; 50 iterations.
- full: all tokens are used to fit, k-means++, no PCA: what the features give without the peculiarities of a published protocol.

Our own K-means ends a restart once its inertia falls by less than 1e-4 of itself; faiss makes all iterations.

Several processes get the numbers of one. Each has the tokens of some images; our own K-means clusters them together, with any
other engine each process fits clusterings of its own.

All matchings are recorded: `hungarian` (one-to-one), `precision` (each cluster takes its most frequent class) and `iou` (each
cluster takes the class of the greatest IoU); `matched` is the one of these that the preset uses.

Numbers to reach (mIoU, VOC, K = 21, 300, 500; NeCo table 7): DINO ViT-S/16 4.3, 13.9, 17.3; CrIBo 18.3, 51.3, 54.5; DINOv2R
ViT-S/14 12.2, 46.7, 49.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evaluation.cluster_maps import (
    clustering_sample,
    confusions,
    draw,
    matched,
    score,
    truth_maps,
    truth_sample,
    whole_confusion,
)
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.option_groups import Clustered
from densebench.evaluation.protocol import Run
from densebench.evaluation.stages import Stage
from densebench.evaluation.tokens import tokens_of
from densebench.evaluation.whole_images import features_of, features_stage, whole_size
from densebench.features.views import View
from densebench.numerics.kmeans import cluster_each, labels
from densebench.options import axis, setting
from densebench.processes import dealt, in_order, resolve_device
from densebench.results.score import Point, Score

LEOPART = {"image_size": 448}
MATCHINGS = ("hungarian", "precision", "iou")


@dataclass(frozen=True)
class KMeans(Clustered):
    """Options of clustering; see the module for what the presets are."""

    version: ClassVar[int] = 2
    published_as: ClassVar[Mapping[str, str]] = {"croc": "kmeans-croc", "neco": "overcluster-neco"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "leopart": LEOPART,
        "leopart-exact": {**LEOPART, "whole_batches": 60},
        "neco": {**LEOPART, "other_class": "dead"},
        "croc": LEOPART,
        "timet": {**LEOPART, "grid_size": 112, "iterations": 50, "mask_size": 112},
        "full": {"standardise": False, "pca": None, "per_cluster": None, "init": "k-means++", "restarts": 1, "absent": "skip"},
    }

    grid_size: int | None = setting(
        None,
        "side to which grids of features are upsampled bilinearly, after the PCA; none: no upsampling",
        minimum=1,
        maximum=16_384,
        recorded="upsample",
    )
    spherical: bool = setting(False, "spherical K-means: centroids are scaled to length 1")
    match: str = setting(
        "auto",
        "matching of clusters with classes; auto: hungarian for K = classes, precision for any other K",
        choices=("auto", "hungarian", "precision", "iou"),
    )
    whole_batches: int | None = setting(
        None, "batch size whose last, incomplete batch is left out; none: all images count", minimum=1
    )
    clusters: tuple[int, ...] = axis(
        (0,), "K, the number of clusters; 0 means the number of classes", minimum=0, maximum=1_000_000
    )
    seeds: int = axis(5, "number of clusterings of every K, each with its own seed", minimum=1, maximum=10_000)

    def headline(self) -> dict[str, str]:
        """Return what tables show: mIoU by the protocol's matching."""
        return {"metric": "miou", "variant": "matched"}

    def scored(self, items: Sequence[Item], dataset: Dataset) -> Sequence[Item]:
        """Return the images that fill whole batches. Raises UserError where there is no whole batch."""
        if not self.whole_batches:
            return items
        if len(items) < self.whole_batches:
            raise UserError(f"--whole-batches {self.whole_batches}: there are {len(items)} images; give {len(items)} at most")
        return items[: len(items) - len(items) % self.whole_batches]

    def resolve(self, dataset: Dataset) -> KMeans:
        """Fill in the split, and K where 0 stands for the number of classes."""
        space = LabelSpace(dataset, "drop", self.other_class)
        clusters = tuple(dict.fromkeys(k or space.classes for k in self.clusters))
        return replace(super().resolve(dataset), clusters=clusters)

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for every K and seed."""
        return [(("K", k), ("seed", seed)) for k in self.clusters for seed in range(self.seeds)]

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the labels and features of the scored images, and the clusterings of all points."""
        items = self.scored(dataset.part(self.splits(dataset)[1], run.limit), dataset)
        space = LabelSpace(dataset, "drop", self.other_class)
        view = View(backbone.multiple, whole_size(self.image_size, backbone, dataset))
        side = self.grid_size or int(view.size or 0) // backbone.stride
        ks = [dict(point)["K"] for point in self.points(dataset) if point not in run.known]
        clustering = clustering_sample(self, ks, len(items) * side**2, min(self.pca or backbone.dim, backbone.dim))
        return [
            Stage("labels", items, sample=truth_sample(space, view, self.mask_size, self.mask_resample)),
            features_stage(self, backbone, dataset, items, view, "features"),
            Stage(f"{len(ks)} clusterings, at most", items, sample=clustering),
        ]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Read labels first (they fail early), then extract features, then cluster and yield scores as soon as they are known.

        On a CPU points are clustered one after the other, on a GPU several at once. Of several processes each has the labels and
        the tokens of its images; they cluster together.
        """
        items = self.scored(dataset.part(self.splits(dataset)[1], run.limit), dataset)
        points = [point for point in self.points(dataset) if point not in run.known]
        space = LabelSpace(dataset, "drop", self.other_class)
        view = View(backbone.multiple, whole_size(self.image_size, backbone, dataset))
        own = dealt(items)
        with run.stage("labels"):
            truth = truth_maps(space, own, view, self.mask_size, self.mask_resample)
        with run.stage("features"):
            features = features_of(self, backbone, dataset, items, view)
            tokens, grid = tokens_of(self, features, items, self.upsampled)
            tokens = tokens.on(resolve_device(self.device))
        for k in (k for k in self.clusters if k > len(tokens)):
            raise UserError(f"--clusters {k}: {len(items)} images have {len(tokens)} tokens; ask for fewer clusters")
        problems = [(tokens, dict(point)["K"], dict(point)["seed"]) for point in points]
        clusterings = cluster_each(self, problems, spherical=self.spherical)
        for point in points:
            with run.stage("clustering"):
                clusters = next(clusterings)
                maps = labels(tokens.rows, clusters).view(len(own), *grid)
            with run.stage("scoring"):
                counted = confusions(maps, truth, len(clusters.centroids), space.classes)
                details = {"inertia": clusters.inertia, "iterations": clusters.iterations, "images": len(items)}
                scores = self.scores(counted, space, point, details)
            yield from scores
            if self.visualise and point == points[0] and run.draws():
                named = matched(whole_confusion(counted), self.matching(len(clusters.centroids), space))
                of_all = in_order(maps.cpu())
                if run.pictures is not None:
                    draw(space, view, items, of_all, named, self.visualise, run.pictures)

    def upsampled(self, grid: Float[Tensor, "gh gw d"]) -> Float[Tensor, "h w d"]:
        """Return the grid of an image upsampled to `grid_size` x `grid_size`, or as it is without that option."""
        if self.grid_size is None:
            return grid
        size = (self.grid_size, self.grid_size)
        large = F.interpolate(grid.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)
        return large[0].permute(1, 2, 0)

    def matching(self, k: int, space: LabelSpace) -> str:
        """Return the matching that the headline uses for k clusters: hungarian, precision or iou."""
        return self.match if self.match != "auto" else "hungarian" if k == space.classes else "precision"

    def scores(self, counted: Int[Tensor, "n c k"], space: LabelSpace, point: Point, details: dict[str, Any]) -> list[Score]:
        """Return the scores of all matchings, and last the headline (`matched`).

        counted: pixels of each class c in each cluster k, for each of this process's n images.
        """
        whole = whole_confusion(counted)
        scores = {name: score(counted, matched(whole, name), name, space, self.absent, point, details) for name in MATCHINGS}
        matching = self.matching(whole.shape[1], space)
        return [*scores.values(), replace(scores[matching], variant="matched", details={**details, "matching": matching})]
