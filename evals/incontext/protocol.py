"""In-context dense nearest-neighbour retrieval: label every patch by its neighbours among labelled training patches.

Balažević, Steiner, Parthasarathy, Arandjelović, Hénaff: Towards In-Context Scene Understanding, NeurIPS 2023 ("Hummingbird").
No training. The patch features of (a fraction of) the training images, with their labels, are the memory; every patch of a
validation image attends to its nearest neighbours there and takes the weighted sum of their labels; upsampled, the best class
is the prediction.

The original code was not released. Presets restate what public code and papers do, each under its own name, because their
numbers differ by five points and more for the same backbone:

- hummingbird: as open-hummingbird-eval, without its slips: identity mIoU, the backbone's own colour statistics, void pixels
  dropped from labels, the data set's own classes, labels under pixel centres. Balanced nested subsets.
- open-hummingbird: that public code (v2) with its slips: Hungarian mIoU with absent classes counted as 0, ImageNet statistics
  with 0.255 for 0.225, void relabelled as class 0, ADE20K with a 151st class that is never right. Two augmentation epochs, as in
  its table.
- neco: what produced table 8 of NeCo (Pariza et al., ICLR 2025): open-hummingbird of 2024, whose memory was normalised along
  the patches of an image instead of the channels (issue 5 of that repository; `--memory-norm channels` fixes it), and whose
  jitter turned hue by up to half a turn instead of a tenth (`--hue 0.1` fixes it). Both were fixed together.
- cribo: CrIBo (Lebailly et al., ICLR 2024) section 4.1: k-NN with 50 neighbours on native images, majority labels, uniform
  subsets, scored on patches. Its code is unreleased; distance, weights of the votes and void are not stated: here cosine, equal
  votes, dropped.
- dip: DIP (Sirko-Galouchenko et al., ICCV 2025): squared Euclidean search on features as they are, temperature 0.07. The
  reference rounds features to fp16; here `--precision` decides.
- capi: CAPI (Darcet et al., 2025): 224 px, standardised features, a vote of the neighbours' patches pixel by pixel (void may win
  the vote, and then counts in the mean as a class that is never right); k and distance are chosen on a tenth of the training
  images. The statistics of the features are taken over the memory's images, here also while choosing.

Numbers to reach (mIoU, VOC, fractions 1/128, 1/64, 1/8, 1/1): NeCo table 8, DINO ViT-S/16 26.4, 30.5, 41.3, 47.9 and CrIBo
53.9, 59.9, 66.9, 71.2; CrIBo table 1 (k-NN), DINO 24.6, 29.0, 38.7, 46.1 and CrIBo 47.3, 56.8, 66.8, 72.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.evals.incontext.labelling import LearnedMemory
from densebench.evals.incontext.memory import Scaling, TrainingPatches, layout_of, row_limits, view_limits
from densebench.evals.incontext.pictures import draw
from densebench.evals.incontext.settings import Settings
from densebench.evals.incontext.trial import Trial
from densebench.evals.incontext.voting import Queries, Voting
from densebench.evaluation.labelling import Labeller
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.patch_labels import LabelledView, census, label_sample, read_labelled_views
from densebench.evaluation.protocol import Run, shown_in_pictures
from densebench.evaluation.stages import Stage
from densebench.features.extract import DTYPES
from densebench.features.views import View
from densebench.numerics.patch_labels import Labelling
from densebench.numerics.search import EXACT_ENGINES
from densebench.processes import alone, rank, resolve_device, world_size
from densebench.results.score import Point, Score


@dataclass(frozen=True)
class InContext(Settings, Labeller):
    """Options of in-context retrieval; see the module for what the presets are."""

    version: ClassVar[int] = 1
    published_as: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("hummingbird", "open-hummingbird", "neco"), "incontext-hummingbird"),
        "cribo": "knn-cribo",
        "dip": "incontext-dip",
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hummingbird": {},
        "open-hummingbird": {
            "augment_epochs": 2,
            "colour": "hummingbird",
            "mask_resample": "nearest",
            "void": "background",
            "other_class": "dead",
            "absent": "zero",
            "variant": "hungarian",
        },
        "neco": {
            "augment_epochs": 2,
            "hue": 0.5,
            "colour": "hummingbird",
            "mask_resample": "nearest",
            "void": "background",
            "other_class": "dead",
            "memory_norm": "patches",
            "absent": "zero",
            "variant": "hungarian",
        },
        "cribo": {
            "resize": "native",
            "augment_epochs": 0,
            "memory_size": None,
            "labels": "majority",
            "weighting": "equal",
            "neighbours": (50,),
            "subsets": "uniform",
            "score_at": "patch",
        },
        "dip": {
            "augment_epochs": 2,
            "colour": "hummingbird",
            "mask_resample": "nearest",
            "void": "background",
            "other_class": "class",
            "metric": ("l2",),
            "temperature": 0.07,
        },
        "capi": {
            "image_size": 224,
            "resample": "bicubic",
            "augment_epochs": 0,
            "memory_size": None,
            "labels": "pixels",
            "weighting": "equal",
            "standardise": True,
            "neighbours": (1, 3, 10, 30),
            "metric": ("cosine", "l2"),
            "subsets": "uniform",
        },
    }

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the labels of train, the features of every view, the search, and the labelling by what it finds."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        val = limited(val, self.visualise) if run.drawing else val
        points = [point for point in self.points(dataset) if point not in run.known]
        space, plain = LabelSpace(dataset, self.void, self.other_class), self.query_view(backbone, dataset)
        used, views = self.used(dataset, train, points), self.memory_views(plain)
        labelling = Labelling(backbone.stride, space.classes, self.labels)
        wanted = {view: self.extraction(backbone, dataset, used, view) for view in views}
        of_val = self.extraction(backbone, dataset, val, plain)
        names = {view: f"features of train{f', augmented view {view.epoch + 1}' if view.augment else ''}" for view in views}
        rows = sum(each.nbytes(used) for each in wanted.values()) // (backbone.dim * DTYPES[self.precision].itemsize)
        groups = self.groups(len(points)) or [[]]
        trial = Trial(
            of_val, space, Voting(self.labels, self.weighting, self.temperature, "exact", space.classes),
            Scaling(self.metric[0], "channels"), min(rows, self.memory_size or rows), len(groups), max(1, len(groups[0])),
            self.neighbours[0], resolve_device(self.device),
        )  # fmt: skip
        return [
            Stage("labels of train", used, sample=label_sample(space, views, labelling)),
            *(Stage(names[view], used, wanted[view]) for view in views),
            Stage("features of the scored split", val, of_val),
            Stage("search", val, sample=trial.search if self.engine in EXACT_ENGINES else None),
            Stage("votes and scoring", val, sample=trial.votes),
            *([Stage("choice of neighbours and metric", used)] if len(self.neighbours) * len(self.metric) > 1 else []),
        ]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Score every point that is not known yet: read labels (they fail early), extract features, then search once for all."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        val = limited(val, self.visualise) if run.drawing else val
        points = [point for point in self.points(dataset) if point not in run.known]
        space, plain = LabelSpace(dataset, self.void, self.other_class), self.query_view(backbone, dataset)
        with run.stage("labels"):
            chosen = self.choose(dataset, train, points)
            used = [train[i] for i in np.flatnonzero(chosen.any(0))]
            subsets = torch.from_numpy(chosen[:, chosen.any(0)].repeat(len(self.memory_views(plain)), axis=1))
            labelled = self.labelled(space, plain, backbone.stride, used, subsets, points)
        with run.stage("features"):
            patches = self.patches(backbone, dataset, plain, used, labelled)
            of_val = self.extracted(self.extraction(backbone, dataset, val, plain))
            queries = Queries(val, plain, backbone.stride, of_val, space, len(self.counted_names(space)), self.score_at)
        if self.engine == "exact" or world_size() == 1:
            yield from self.scored_groups(patches, subsets, queries, points, run)
        elif rank() == 0:  # other engines' indices are not divided among processes
            with alone():
                yield from self.scored_groups(patches, subsets, queries, points, run)

    def learn(self, backbone: Backbone, dataset: Dataset, train: Sequence[Item]) -> LearnedMemory:
        """Fill a memory with the patches of all the images, as `Labeller.learn` says."""
        space, plain = LabelSpace(dataset, self.void, self.other_class), self.query_view(backbone, dataset)
        subsets = torch.ones(1, len(train) * len(self.memory_views(plain)), dtype=torch.bool)
        labelled = self.labelled(space, plain, backbone.stride, train, subsets, [(("fraction", 1),)])
        patches = self.patches(backbone, dataset, plain, train, labelled)
        names = self.counted_names(space)
        queries = Queries([], plain, backbone.stride, patches.features[labelled[0].view], space, len(names), self.score_at)
        retrieval = self.retrieval(space)
        k, metric, selected = retrieval.chosen(patches, subsets, queries)
        voter = retrieval.voter(patches, subsets, metric)
        details = {**census(space, labelled), "patches": voter.memory.layout.sizes()[0], **selected}
        extraction = partial(self.extraction, backbone, view=plain)
        return LearnedMemory(space, names, plain, extraction, self.extracted, details, voter, k, queries)

    def labelled(
        self, space: LabelSpace, plain: View, patch: int, used: Sequence[Item], subsets: Bool[Tensor, "s views"],
        points: Sequence[Point],
    ) -> list[LabelledView]:  # fmt: skip
        """Read the label maps of training images under every view. Raises UserError where they hold too few labelled patches.

        patch: px of a feature. subsets: which of the views each point learns from.
        """
        limits = view_limits(subsets, row_limits(subsets, self.memory_size))
        labelling = Labelling(patch, space.classes, self.labels)
        labelled = read_labelled_views(space, used, self.memory_views(plain), labelling, limits)
        self.check_sizes(points, layout_of(labelled, subsets, self.memory_size).sizes())
        return labelled

    def patches(
        self, backbone: Backbone, dataset: Dataset, plain: View, used: Sequence[Item], labelled: Sequence[LabelledView]
    ) -> TrainingPatches:
        """Return the labelled views of training images with their features."""
        views = self.memory_views(plain)
        return TrainingPatches(labelled, {view: self.extracted(self.extraction(backbone, dataset, used, view)) for view in views})

    def scored_groups(
        self, patches: TrainingPatches, subsets: Bool[Tensor, "s views"], queries: Queries, points: Sequence[Point], run: Run
    ) -> Iterator[Score]:
        """Fill a memory for each group of points, search it, and yield the scores of these points."""
        space, names, retrieval = queries.space, self.counted_names(queries.space), self.retrieval(queries.space)
        shown = shown_in_pictures(self.points(space.dataset))
        for group in self.groups(len(points)):
            with run.stage("selection") if retrieval.chooses else nullcontext():
                k, metric, selected = retrieval.chosen(patches, subsets[group], queries)
            with run.stage("memory"):
                voter = retrieval.voter(patches, subsets[group], metric)
                recalls = voter.recall(queries, k)
            with run.stage("search"):
                counts = queries.count(voter, k, [points[i] for i in group], run)
            fallbacks = voter.fallbacks()
            with run.stage("metrics"):
                for row, i in enumerate(group):
                    details = {
                        **census(space, patches.held(subsets[[i]])),
                        "patches": voter.memory.layout.sizes()[row],
                        **selected,
                    }
                    details |= {"engine": self.engine} if self.engine != "exact" else {}
                    details |= {"recall": recalls[row]} if recalls[row] is not None else {}
                    details |= {"search_fallbacks": fallbacks} if fallbacks is not None else {}
                    scores = counts.scores([item.name for item in queries.items], row, names, self.absent, points[i], details)  # type: ignore[arg-type]
                    yield from sorted(scores, key=lambda score: (score.metric, score.variant) == ("miou", self.variant))
            if self.visualise and shown in [points[i] for i in group] and run.draws():
                draw(voter, queries, k, self.visualise, run.pictures)
