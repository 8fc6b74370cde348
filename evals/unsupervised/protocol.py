"""Fully unsupervised segmentation: foreground by clusters (CBFE), objects by communities of clusters (CD).

Ziegler and Asano, Leopart: Self-Supervised Learning of Object Parts for Semantic Segmentation, CVPR 2022, sections 3.3, 3.4 and
4.4; Pariza et al., NeCo, ICLR 2025, appendix B.1 and table 6. Patch features of train and of the scored split are clustered
together (as in `kmeans`), then

1. CBFE: of 200 spherical clusters, those count as foreground whose pixels lie in a ViT's attention masks often enough;
2. the foreground alone is clustered finely; clusters that often lie side by side are joined to communities, those without a
   neighbour become background;
3. communities are matched with classes by the Hungarian method (communities beyond the number of classes: class 0).

The record has a score for every step, by variant: `kmeans` (K = classes, none of the steps), `cbfe` (K = classes without
background, on the foreground), `cd` (communities of fine clusters of all patches), `cbfe+cd` (the headline), and `overclustering`
(each fine cluster takes its most frequent class: what communities could reach at best); and the masks' `foreground_iou`.

- leopart, leopart-b8: the reference for ViT-S/16 and ViT-B/8; neco: NeCo's parameters. Attention holds 65 % of the mass (NeCo's
  text: 70 %, its code: 65 %). The reference takes the attention of DINO ViT-S/16 for every backbone (`--attention-from`);
  NeCo takes that of the scored backbone, as here by default. The reference's list of neighbours has 240 degrees in place of 225.
- label-free: nothing is chosen with labels. The cut is where the foreground agrees best with the attention masks; all
  co-occurrences are edges; and Louvain's resolution is the one that gives about as many communities as there are classes.

The other presets choose the cut with train's labels. Their number of clusters, least weight of an edge and Markov time were also
chosen with labels before publication, by 300 trials on train's mIoU. The record lists the settings that differ from those of the
label-free preset (`chosen_with_labels`). Communities are Louvain's by default, with the resolution that gives as many as there
are classes without background; published numbers are Infomap's (`--method infomap`, pip install 'densebench[infomap]').
K-means of `kmeans` and `cbfe` and the communities depend on the seed of the score, the fine clustering on `--clustering-seed`, as
in the reference.

Several processes get the numbers of one: each has the tokens and maps of some images, and they cluster together. What they count
in each image is collected in the order of the images; the main process finds the communities.

Numbers to reach (mIoU, VOC val; NeCo table 6 and Leopart table 5): NeCo ViT-S/14 17.8, with CBFE 41.3, with CD 55.1; Leopart
ViT-S/16 with both 41.7; DINOv2R ViT-S/14 35.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.backbones import without_labels
from densebench.backbones.backbone import Backbone
from densebench.backbones.loading import load_backbone
from densebench.backbones.timm_models import attention_of
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evals.unsupervised.clustered_images import ClusteredImages, Fine, enlarged
from densebench.evals.unsupervised.communities import Edge, communities, cooccurrence, graph, offsets
from densebench.evaluation.cluster_maps import confusions, draw, matched, score, truth_maps, truth_sample, whole_confusion
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.option_groups import Clustered
from densebench.evaluation.protocol import Run
from densebench.evaluation.stages import Stage
from densebench.evaluation.tokens import tokens_of
from densebench.evaluation.whole_images import features_of, features_stage, truth_map, whole_size
from densebench.extras import check_installed
from densebench.features.views import View
from densebench.numerics.device_copy import on_device
from densebench.numerics.first_centroids import sample
from densebench.numerics.foreground import best_cut, foreground, mask_of, without_specks
from densebench.numerics.kmeans import cluster_each, labels
from densebench.options import axis, setting
from densebench.processes import dealt, from_main, resolve_device
from densebench.results.score import Point, Score

BOTH = "cbfe+cd"
S16: dict[str, Any] = {"image_size": 448}
LABEL_FREE: dict[str, Any] = {
    "image_size": 448,
    "cut": "attention",
    "community_clusters": 150,
    "weight_threshold": 0.0,
    "angles": "eight",
    "clustering_seed": None,
}


@dataclass(frozen=True)
class Unsupervised(Clustered):
    """Options of unsupervised segmentation; see the module for what the presets are."""

    version: ClassVar[int] = 1
    needs_background: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, str]] = dict.fromkeys(("leopart", "leopart-b8", "neco"), "unsupervised-cbfe-cd")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "leopart": S16,
        "leopart-b8": {**S16, "community_clusters": 109, "weight_threshold": 0.07, "markov_time": 0.4},
        "neco": {**S16, "community_clusters": 189, "weight_threshold": 0.07, "markov_time": 1.2},
        "label-free": LABEL_FREE,
    }

    train_split: str | None = setting(
        None, "split that is clustered with the scored one, and whose labels choose the cut; none: train"
    )
    attention_mass: float = setting(0.65, "share of the attention that lies inside an attention mask", minimum=0)
    attention_from: str | None = setting(None, "backbone whose attention is used, such as ckpt:DIR; none: the scored backbone")
    attention_weights: str | None = setting(None, "weights for --attention-from timm:NAME")
    foreground_clusters: int = setting(
        200, "number of clusters that are each foreground or background as a whole", minimum=1, maximum=1_000_000
    )
    cut: str = setting("labels", "least precision of a foreground cluster: labels or attention (chosen by these), or a number")
    community_clusters: int = setting(
        149, "number of fine clusters, which are joined to communities", minimum=1, maximum=1_000_000
    )
    angles: str = setting(
        "leopart", "neighbours that count: all eight directions, or the reference's list", choices=("eight", "leopart")
    )
    weight_threshold: float = setting(0.09, "least share of each other's neighbours at which two clusters get an edge", minimum=0)
    method: str = setting("louvain", "how communities are found", choices=("louvain", "infomap"))
    resolution: float | None = setting(
        None, "resolution of Louvain; none: the one that gives about as many communities as classes", minimum=0
    )
    markov_time: float = setting(2.0, "Markov time of Infomap", minimum=0)
    clustering_seed: int | None = setting(0, "seed of the fine clusterings; none: the seed of the score", minimum=0)
    seeds: int = axis(10, "number of runs, each with its own seed", minimum=1, maximum=10_000)

    def headline(self) -> dict[str, str]:
        """Return what tables show: mIoU of foreground and communities together."""
        return {"metric": "miou", "variant": BOTH}

    def splits(self, dataset: Dataset) -> tuple[str, str]:
        """Return the split that is clustered too (by default train: 1464 images of VOC, not trainaug), and the scored one."""
        usual = "train" if "train" in dataset.splits else dataset.train_split
        return self.train_split or usual, self.eval_split or dataset.val_split

    def resolve(self, dataset: Dataset) -> Unsupervised:
        """Fill in the splits. Raises UserError for a wrong cut or share, and for a data set without a background class."""
        cut = self.cut if self.cut in ("labels", "attention") else f"{self.threshold():g}"
        if self.engine == "sklearn":
            raise UserError("--engine sklearn: it has no spherical K-means, which finds the foreground; take torch or faiss")
        if not self.markov_time:
            raise UserError("--markov-time 0: nothing would flow from cluster to cluster; give more")
        if not 0 < self.attention_mass <= 1:
            raise UserError(f"--attention-mass {self.attention_mass:g}: it is a share, above 0 and at most 1")
        if self.attention_weights and not self.attention_from:
            raise UserError(f"--attention-weights {self.attention_weights} goes with --attention-from timm:NAME")
        check_installed("infomap" if self.method == "infomap" else "networkx", f"--method {self.method}")
        if dataset.background is None:
            raise UserError(f"{dataset.name} has no background class, so no foreground; voc has one")
        train, scored = self.splits(dataset)
        if train == scored:
            raise UserError(f"--train-split {train}: it is the scored split; name another one")
        return replace(super().resolve(dataset), cut=cut)

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the settings that decide the number: --attention-from counts by the identity of that backbone."""
        settings = {**super().settings(dataset), "chosen_with_labels": self.chosen_with_labels()}
        if (other := self.other_attention()) is not None:
            settings |= {"attention_from": without_labels(other.identity()), "attention_weights": None}
        return settings

    def threshold(self) -> float:
        """Return the cut as a number. Raises UserError where it is no number from 0 to 1."""
        try:
            value = float(self.cut)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise UserError(f"--cut {self.cut}: it takes labels, attention or a number from 0 to 1")
        return value

    def chosen_with_labels(self) -> list[str]:
        """Return the names of settings that were chosen with labels, here or before publication: those unlike label-free's."""
        names = ["cut", "community_clusters", "weight_threshold", "markov_time" if self.method == "infomap" else "resolution"]
        return [name for name in names if getattr(self, name) != LABEL_FREE.get(name)]

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for each seed."""
        return [(("seed", seed),) for seed in range(self.seeds)]

    def other_attention(self) -> Backbone | None:
        """Return the backbone of --attention-from; None where the scored backbone's attention is used."""
        if self.attention_from is None:
            return None
        weights = Path(self.attention_weights) if self.attention_weights else None
        return attention_of(load_backbone(self.attention_from, weights=weights))

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the labels, attention maps and features of all images, and the clusterings of all seeds."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        items, source = [*train, *val], self.other_attention() or attention_of(backbone)
        space = LabelSpace(dataset, "drop", self.other_class)
        view = View(backbone.multiple, whole_size(self.image_size, backbone, dataset))
        attended = View(source.multiple, whole_size(self.image_size, source, dataset))
        labels = truth_sample(space, view, self.mask_size, self.mask_resample)
        return [
            Stage("labels", items if self.cut == "labels" else val, sample=labels),
            features_stage(self, source, dataset, items, attended, "attention maps"),
            features_stage(self, backbone, dataset, items, view, "features"),
            Stage(f"clusterings and communities of {self.seeds} seeds", items),
        ]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Read labels and attention first (they fail early), then cluster, then find the communities of every seed."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        items = list({item.name: item for item in [*train, *val]}.values())
        if len(items) < len(train) + len(val):
            raise UserError(f"{self.train_split} and {self.eval_split} share images; name another --train-split")
        space = LabelSpace(dataset, "drop", self.other_class)
        view = View(backbone.multiple, whole_size(self.image_size, backbone, dataset))
        source = self.other_attention() or attention_of(backbone)
        own = dealt(items)
        trained = len(dealt(items[: len(train)]))
        with run.stage("labels"):
            wanted = own if self.cut == "labels" else own[trained:]
            truth = truth_maps(space, wanted, view, self.mask_size, self.mask_resample)
        with run.stage("features"):
            masks = self.masks(source, dataset, items)
            features = features_of(self, backbone, dataset, items, view)
            tokens, grid = tokens_of(self, features, items)
            tokens = tokens.on(resolve_device(self.device))
        side = self.mask_size or int((truth or [truth_map(space, view, val[0], None, self.mask_resample)])[0].shape[0])
        images = ClusteredImages(tokens, grid, side, trained, len(train), enlarged(masks, side), tuple(truth), space)
        points = [point for point in self.points(dataset) if point not in run.known]
        seeds = [dict(point)["seed"] for point in points]
        whole = cluster_each(self, ((tokens, space.classes, seed) for seed in seeds))
        fine: Fine | None = None
        inside: Iterator[Tensor] = iter(())
        for point, seed in zip(points, seeds, strict=True):
            with run.stage("clustering"):
                if fine is None or self.clustering_seed is None:
                    fine = self.fine(images, seed if self.clustering_seed is None else self.clustering_seed)
                    sharing = [seed] if self.clustering_seed is None else seeds
                    inside = self.inside(images, fine.mask, space.classes - 1, sharing)
            with run.stage("scoring"):
                maps = {"kmeans": (images.maps(next(whole)), space.classes), "cbfe": (next(inside), space.classes)}
                scores, named = self.scores(images, fine, point, maps)
            yield from scores
            if self.visualise and seed == 0 and run.draws():
                parts = images.in_scored(fine.parts[trained:])
                if run.pictures is not None:
                    draw(space, view, val, parts, named, self.visualise, run.pictures)

    def masks(self, source: Backbone, dataset: Dataset, items: Sequence[Item]) -> Bool[Tensor, "n gh gw"]:
        """Return attention masks: heads averaged, smoothed, cut at --attention-mass, and without small specks.

        They are those of this process's images.
        """
        view = View(source.multiple, whole_size(self.image_size, source, dataset))
        maps = features_of(self, source, dataset, items, view)
        own = dealt(items)
        heads = torch.stack([maps[item].float().mean(dim=2) for item in own or items[:1]])
        grid = (int(heads.shape[1]), int(heads.shape[2]))
        return without_specks(foreground(heads.flatten(1), grid, self.attention_mass).unflatten(1, grid))[: len(own)]

    def fine(self, images: ClusteredImages, seed: int) -> Fine:
        """Return the foreground with its fine clusters, the fine clusters of all patches, and the edges of both.

        Raises UserError where there are fewer tokens than clusters.
        """
        k, fewer = self.community_clusters, self.foreground_clusters
        for name, count in (("community", k), ("foreground", fewer)):
            if count > len(images.tokens):
                raise UserError(f"--{name}-clusters {count}: there are {len(images.tokens)} tokens; ask for fewer")
        coarse = images.maps(next(cluster_each(self, [(images.tokens, fewer, seed)], spherical=True)))
        large = enlarged(coarse, images.side)
        precision = images.precisions(large, fewer)
        threshold = self.chosen(images, precision[0], large[: images.train])
        halves = zip(images.halves(coarse), precision, strict=True)
        mask = images.in_both(torch.cat([mask_of(clusters, of_half, threshold) for (clusters, _), of_half in halves]))
        parts = next(self.inside(images, mask, k, [seed]))
        everything = images.maps(next(cluster_each(self, [(images.tokens, k, seed)])))
        edges = [self.edges(enlarged(maps, images.side), nodes) for maps, nodes in ((parts, k + 1), (everything, k))]
        return Fine(threshold, mask, parts, edges[0], everything, edges[1])

    def chosen(self, images: ClusteredImages, precision: Float[Tensor, "k"], clusters: Int[Tensor, "n h w"]) -> float:
        """Return the least precision of a foreground cluster."""
        if self.cut == "labels":
            return best_cut(precision, clusters, images.labelled()[: images.train], joined=images.in_train)
        if self.cut == "attention":
            return best_cut(precision, clusters, images.attention[: images.train], joined=images.in_train)
        return self.threshold()

    def inside(
        self, images: ClusteredImages, mask: Bool[Tensor, "all gh gw"], k: int, seeds: Sequence[int]
    ) -> Iterator[Int[Tensor, "n gh gw"]]:
        """Yield the cluster of each patch for every seed: 0 to k - 1 in the foreground, k in the background.

        mask: of all images; the clusters are those of this process's. A token is weighted by its pixels in the enlarged map,
        since the reference clusters enlarged maps.
        Raises UserError where the foreground has fewer tokens than k.
        """
        index = mask.flatten().nonzero()[:, 0]
        pixels = index.repeat_interleave(images.pixels()[index % mask[0].numel()])
        if k > len(index):
            raise UserError(f"{k} clusters of {len(index)} foreground tokens: lower --cut or --community-clusters")
        tokens = images.tokens
        trained = (pixels[sample(len(pixels), k, self.per_cluster, seed)] for seed in seeds)
        problems = ((tokens.take(chosen), k, seed) for chosen, seed in zip(trained, seeds, strict=True))
        own = images.own(mask)
        inside = own.flatten().nonzero()[:, 0]
        for clusters in cluster_each(replace(self, per_cluster=None), problems):
            result = torch.full((own.numel(),), k, dtype=torch.int64)
            result[inside] = labels(tokens.rows[on_device(inside, tokens.rows.device)], clusters).cpu()
            yield result.view(own.shape)

    def edges(self, maps: Int[Tensor, "n h w"], nodes: int) -> list[Edge]:
        """Return the edges between clusters that lie side by side often enough (`--weight-threshold`)."""
        return graph(cooccurrence(maps, nodes, offsets(angles=self.angles)), self.weight_threshold)

    def scores(
        self, images: ClusteredImages, fine: Fine, point: Point, maps: dict[str, tuple[Tensor, int]]
    ) -> tuple[list[Score], Int[Tensor, "k"]]:
        """Return the scores of all steps, the headline last, and the class of every fine cluster of the foreground.

        maps: cluster maps that are made already (kmeans and cbfe), by variant, each with its number of clusters.
        """
        seed, classes, k = dict(point)["seed"], images.space.classes, self.community_clusters
        of_parts = self.groups(fine.edges, k + 1, seed, classes - 1)
        of_all = self.groups(fine.all_edges, k, seed, classes - 1)
        details: dict[str, Any] = {
            "threshold": fine.threshold,
            "foreground": round(float(fine.mask.double().mean()), 4),
            "communities": int(of_parts.max()),
            "connected": int((of_parts > 0).sum()),
            "chosen_with_labels": self.chosen_with_labels(),
        }
        maps = {
            **maps,
            "cd": (of_all[fine.everything], int(of_all.max()) + 1),
            "overclustering": (fine.parts, k + 1),
            BOTH: (of_parts[fine.parts], int(of_parts.max()) + 1),
        }
        truth, scores = images.scored_truth(), images.foreground_scores(fine.mask, point)
        for variant, (of_all_images, count) in maps.items():
            counted = confusions(of_all_images[images.train :], truth, count, classes)
            named = matched(whole_confusion(counted), "precision" if variant == "overclustering" else "hungarian")
            about = details if variant == BOTH else {}
            scores.append(score(counted, named, variant, images.space, self.absent, point, about, images.first))
        return scores, named[of_parts]

    def groups(self, edges: list[Edge], nodes: int, seed: int, wanted: int) -> Int[Tensor, "nodes"]:
        """Return the community of each cluster by `--method`, from 1; 0 for clusters without an edge."""
        given = {"method": self.method, "resolution": self.resolution, "markov_time": self.markov_time}
        return from_main(lambda: communities(edges, nodes, seed=seed, wanted=wanted, **given))  # type: ignore[arg-type]
