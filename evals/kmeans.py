"""K-means of patch features: how well clusters that saw no label agree with classes.

Ziegler and Asano, Leopart: Self-Supervised Learning of Object Parts for Semantic Segmentation, CVPR 2022. Patch features of the
scored images alone are clustered (no training image, no label); clusters are then named by classes with the labels. K = the
number of classes is "clustering", larger K is "over-clustering". The same words mean different things in different papers:

- leopart: 448 px; features standardised, PCA to 50 dimensions; K-means of 100 iterations, the best of 5 restarts, on 256 random
  tokens a cluster (a default of faiss that no paper states: of 1.5 million tokens of VOC 5,376 make 21 clusters); cluster maps
  and label maps at 100 x 100, both by nearest neighbours; absent classes counted as 0. K = classes: Hungarian on IoU; larger K:
  every cluster takes its most frequent class. Five seeds.
- leopart-exact: the same on what fills whole batches of 60 images: 1440 of VOC's 1449.
- neco: NeCo (Pariza et al., ICLR 2025), tables 1 and 7: Leopart's, ADE20K with a class 0 that is never right. Its appendix names
  a Hungarian matching after the majority one; the code has none, and it would change nothing unless a class got no cluster.
- croc: CrOC (Stegmuller et al., CVPR 2023) used Leopart's code.
- timet: TimeT (Salehi et al., ICCV 2023): features, after the PCA, are upsampled bilinearly to 112 x 112 before they are
  clustered; 50 iterations.
- full: every token trains, k-means++, no PCA: what the features give, without the accidents of a protocol.

Our own K-means ends a restart once its inertia falls by less than 1e-4 of itself; faiss makes all iterations.

All matchings are recorded: `hungarian`, `precision` (most frequent class) and `iou` (many-to-one); `matched` is the protocol's.

Numbers to reach (mIoU, VOC, K = 21, 300, 500; NeCo table 7): DINO ViT-S/16 4.3, 13.9, 17.3; CrIBo 18.3, 51.3, 54.5; DINOv2R
ViT-S/14 12.2, 46.7, 49.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from densebench import matching, metrics
from densebench.backbones import Backbone
from densebench.clustering import labels
from densebench.console import notice, progress
from densebench.datasets import Dataset, Item, limited
from densebench.datasets.palette import distinct_palette
from densebench.device import resolve_device
from densebench.errors import UserError
from densebench.evaluator import Evaluator, Point, Run
from densebench.features import Features
from densebench.options import axis, means, setting
from densebench.pictures import row, save
from densebench.records import Score
from densebench.views import View

from .counting import miou_score
from .engines import cluster
from .labels import LabelSpace
from .layers import features_of, truth_map, whole_size
from .pictures import panel

LEOPART = {"image_size": 448}
MATCHINGS = ("hungarian", "precision", "iou")


@dataclass(frozen=True)
class KMeans(Evaluator):
    """Options of clustering; see the module for what the presets are."""

    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "leopart": LEOPART,
        "leopart-exact": {**LEOPART, "whole_batches": 60},
        "neco": {**LEOPART, "other_class": "dead"},
        "croc": LEOPART,
        "timet": {**LEOPART, "upsample": 112, "iterations": 50, "mask_size": 112},
        "full": {"standardise": False, "pca": None, "per_cluster": None, "init": "k-means++", "restarts": 1, "absent": "skip"},
    }

    image_size: int | None = setting(None, "side in px, a multiple of the stride; none: 512 rounded down to it", minimum=1)
    standardise: bool = setting(True, "give each feature mean 0 and deviation 1 over all tokens")
    pca: int | None = setting(50, "principal components that are kept; none: all features as they are", minimum=1)
    upsample: int | None = setting(None, "side that grids of features are upsampled to first; none: as they are", minimum=1)
    per_cluster: int | None = setting(256, "tokens a cluster that train it; none: all", minimum=1)
    init: str = setting("points", "first centroids: random tokens or k-means++", choices=("points", "k-means++"))
    iterations: int = setting(100, "of Lloyd's algorithm at most", minimum=1)
    restarts: int = setting(5, "of which the one with the least inertia counts", minimum=1)
    spherical: bool = setting(False, "centroids of length one")
    engine: str = setting("torch", "which K-means", choices=("torch", "faiss", "sklearn"))
    mask_size: int | None = setting(100, "side of the label maps that are compared; none: the view's own", minimum=1)
    mask_resample: str = setting("nearest", "how label maps come to this size", choices=("nearest-exact", "nearest"))
    match: str = setting(
        "auto", "auto: hungarian for K = classes, precision above", choices=("auto", "hungarian", "precision", "iou")
    )
    whole_batches: int | None = setting(
        None, "leave out what does not fill a batch of so many images; none: all count", minimum=1
    )
    other_class: str = setting(
        "off", "where 0 is 'other', not a class: off, a dead class 0, or a class", choices=("off", "dead", "class")
    )
    absent: str = setting("zero", "classes in neither truth nor prediction", choices=("skip", "zero"))
    eval_split: str | None = setting(None, "split that is clustered and scored; none: the data set's own")
    clusters: tuple[int, ...] = axis((0,), "K, the number of clusters; 0 means the number of classes", minimum=0)
    seeds: int = axis(5, "clusterings of every K", minimum=1)
    visualise: int = means(0, "draw so many images: image, truth, clusters by class", minimum=0)

    def headline(self) -> dict[str, str]:
        """mIoU by the protocol's matching."""
        return {"metric": "miou", "variant": "matched"}

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """The settings by what they mean: a size given is the same size hinted."""
        return {**super().settings(dataset), "image_size": self.image_size or dataset.image_size_hint}

    def splits(self, dataset: Dataset) -> tuple[str, str]:
        """Only the scored split is looked at."""
        split = self.eval_split or dataset.val_split
        return split, split

    def scored(self, items: Sequence[Item]) -> Sequence[Item]:
        """What fills whole batches. Raises UserError where that is nothing."""
        if not self.whole_batches:
            return items
        if len(items) < self.whole_batches:
            raise UserError(f"--whole-batches {self.whole_batches}: there are {len(items)} images; give {len(items)} at most")
        return items[: len(items) - len(items) % self.whole_batches]

    def resolve(self, dataset: Dataset) -> KMeans:
        """Name the split, and K where it is the number of classes."""
        space = LabelSpace(dataset, "drop", self.other_class)
        clusters = tuple(dict.fromkeys(k or space.classes for k in self.clusters))
        return replace(self, eval_split=self.splits(dataset)[1], clusters=clusters)

    def points(self, dataset: Dataset) -> list[Point]:
        """Every K for every seed."""
        return [(("K", k), ("seed", seed)) for k in self.clusters for seed in range(self.seeds)]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Labels first (they fail early), then features, then one clustering after the other."""
        items = self.scored(limited(dataset.items(self.splits(dataset)[1]), run.limit))
        points = [point for point in self.points(dataset) if point not in run.known]
        space = LabelSpace(dataset, "drop", self.other_class)
        view = View(backbone.stride, whole_size(self.image_size, backbone, dataset))
        with run.stage("labels"):
            truth = self.truth(space, items, view)
        with run.stage("features"):
            tokens, grid = self.tokens(backbone, dataset, items, view)
        for k in (k for k in self.clusters if k > len(tokens)):
            raise UserError(f"--clusters {k}: {len(items)} images have {len(tokens)} tokens; ask for fewer clusters")
        for point in points:
            with run.stage("clustering"):
                found = cluster(self, tokens, dict(point)["K"], dict(point)["seed"])
                maps = labels(tokens, found).view(len(items), *grid)
            with run.stage("scoring"):
                pairs = [
                    confusion(own, label, len(found.centroids), space.classes) for own, label in zip(maps, truth, strict=True)
                ]
                details = {"inertia": found.inertia, "iterations": found.iterations, "images": len(items)}
                scores = self.scores(torch.stack(pairs), space, point, details)
            yield from scores
            if self.visualise and run.pictures is not None and point == points[0]:
                named = matched(torch.stack(pairs).sum(0), self.own_matching(len(found.centroids), space))
                self.draw(space, view, items, maps, named, run)

    def truth(self, space: LabelSpace, items: Sequence[Item], view: View) -> list[UInt8[Tensor, "h w"]]:
        """The label maps that clusters are compared with. Raises UserError where no pixel has a class."""
        found = []
        with progress("labels", len(items)) as bar:
            for item in items:
                found.append(truth_map(space, view, item, self.mask_size, self.mask_resample))
                bar.advance()
        if not any(bool((label != 255).any()) for label in found):
            raise UserError(f"no pixel of the {len(items)} images that are scored has a class; check their label maps")
        return found

    def tokens(
        self, backbone: Backbone, dataset: Dataset, items: Sequence[Item], view: View
    ) -> tuple[Float[Tensor, "n d"], tuple[int, int]]:
        """The tokens of all images, image by image and row by row, as they are clustered; and the grid that they form."""
        features = features_of(self, backbone, dataset, items, view)
        project = self.projection(features, items)
        parts = []
        for item in items:
            own = project(features[item].float())
            if self.upsample is not None:
                size = (self.upsample, self.upsample)
                large = F.interpolate(own.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)
                own = large[0].permute(1, 2, 0)
            if not own.isfinite().all():
                raise UserError(f"the features of {item.name} are not finite numbers; check the weights, or use --precision fp32")
            parts.append(own)
        grid = (int(parts[0].shape[0]), int(parts[0].shape[1]))
        return torch.cat([part.flatten(0, 1) for part in parts]).to(resolve_device(self.device)), grid

    def projection(self, features: Features, items: Sequence[Item]) -> Any:
        """Standardisation and PCA of all tokens as one affine map."""
        width = features[items[0]].shape[-1]
        if self.pca is not None and self.pca > width:
            raise UserError(f"--pca {self.pca}: the features have {width} dimensions; give {width} at most, or none")
        total, outer, count = torch.zeros(width).double(), torch.zeros(width, width).double(), 0
        for item in items if self.standardise or self.pca else ():
            own = features[item].flatten(0, 1).double()
            total, outer, count = total + own.sum(0), outer + own.T @ own, count + len(own)
        if not count:
            return lambda grid: grid
        mean = total / count
        covariance = outer / count - mean[:, None] * mean
        scale = covariance.diagonal().clamp(min=1e-12).sqrt() if self.standardise else torch.ones_like(mean)
        axes = torch.diag(1 / scale)
        if self.pca is not None:
            _, vectors = torch.linalg.eigh(covariance / scale[:, None] / scale)
            axes = axes @ vectors[:, -self.pca :].flip(1)
        return lambda grid: ((grid.double() - mean) @ axes).float()

    def own_matching(self, k: int, space: LabelSpace) -> str:
        """The name of the protocol's own matching."""
        return self.match if self.match != "auto" else "hungarian" if k <= space.classes else "precision"

    def scores(self, confusions: Int[Tensor, "n c k"], space: LabelSpace, point: Point, details: dict[str, Any]) -> list[Score]:
        """All matchings, then the protocol's own."""
        whole = confusions.sum(0)
        found: dict[str, Score] = {}
        for name in MATCHINGS:
            classes = matched(whole, name)
            tallies = metrics.tallies(torch.stack([matching.merged(one, classes) for one in confusions]))
            found[name] = miou_score(tallies, name, space.names, self.absent, point, details)  # type: ignore[arg-type]
        own = self.own_matching(whole.shape[1], space)
        return [*found.values(), replace(found[own], variant="matched", details={**details, "matching": own})]

    def draw(self, space: LabelSpace, view: View, items: Sequence[Item], maps: Tensor, named: Int[Tensor, "k"], run: Run) -> None:
        """Write `<image>.png`: image, truth, clusters in the colours of their classes, clusters in colours of their own."""
        assert run.pictures is not None
        chosen = limited(range(len(items)), self.visualise)  # type: ignore[type-var]
        classes_of, dataset = named.clamp(min=0).to(torch.uint8), space.dataset
        colours = np.array(distinct_palette(len(named)), dtype=np.uint8)
        for place in chosen:
            item = items[place]
            label = view.label(space.read_truth(item), dataset.image_digest(item))
            size = (int(label.shape[1]), int(label.shape[0]))
            own = Image.fromarray(colours[maps[place].cpu().numpy()]).resize(size, Image.Resampling.NEAREST)
            classes = F.interpolate(classes_of[maps[place].cpu()][None, None], label.shape, mode="nearest-exact")[0, 0]
            picture = row([panel(dataset, space, view, item, label, classes), own], gap=4)
            save(picture, run.pictures / f"{item.name.replace('/', '-')}.png")
        notice(f"pictures of {len(chosen)} images are in {run.pictures}")


def matched(whole: Int[Tensor, "c k"], name: str) -> Int[Tensor, "k"]:
    """The class of every cluster by the matching of that name; -1 for none."""
    return matching.one_to_one(whole) if name == "hungarian" else matching.many_to_one(whole, name)  # type: ignore[arg-type]


def confusion(clusters: Int[Tensor, "gh gw"], truth: UInt8[Tensor, "h w"], k: int, classes: int) -> Int[Tensor, "c k"]:
    """Labelled pixels by class and cluster; the cluster map is upsampled by nearest neighbours."""
    large = F.interpolate(clusters[None, None].float(), truth.shape, mode="nearest")[0, 0].long().cpu()
    counted = truth != 255
    pairs = truth[counted].long() * k + large[counted]
    return torch.from_numpy(np.bincount(pairs.numpy(), minlength=classes * k)).view(classes, k)
