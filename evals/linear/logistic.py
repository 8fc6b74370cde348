"""Linear probe: one linear layer on frozen patch features, fitted exactly.

The literature trains a 1 x 1 convolution by stochastic gradients (Ziegler and Asano, Leopart, CVPR 2022; Oquab et al., DINOv2,
2023), and what it reports moves with learning rate, schedule and augmentation. The preset here has none of these:

- lbfgs: multinomial logistic regression, full batch, L-BFGS, on cached features of the images as they are. A patch's label is
  the share of each class among its labelled pixels. Several strengths of regularisation are fitted in the same passes on nine
  tenths of the training images; the one with the best mIoU on the other tenth is then fitted on all of them. Logits are upsampled
  bilinearly to the view, whose pixels are scored. Close to the logistic regression of CAPI (Darcet et al., 2025), which drops
  patches whose majority is void and takes the majority class of the others.

It is a measure of its own: no paper has reported it, so its numbers compare with each other alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.console import warn
from densebench.datasets.dataset import Dataset, limited
from densebench.errors import UserError
from densebench.evals.linear.labelling import LearnedLayer
from densebench.evals.linear.layers import Layers
from densebench.evaluation.labelling import Labeller
from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.option_groups import FewShot
from densebench.evaluation.patch_labels import LabelledView, census, held_out, label_sample, read_labelled_views
from densebench.evaluation.protocol import Run
from densebench.evaluation.stages import Stage
from densebench.evaluation.whole_images import extraction_of, features_of, features_stage, whole_view
from densebench.features.extract import Features
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.files.store import Store
from densebench.numerics import segmentation as metrics
from densebench.numerics.device_copy import on_device
from densebench.numerics.device_memory import free_bytes
from densebench.numerics.logistic import Minimum, Rows, fit
from densebench.numerics.moments import of_sums, sums
from densebench.numerics.patch_labels import Labelling
from densebench.options import setting
from densebench.processes import (
    add_all_parts,
    alone,
    collected,
    consecutive,
    dealt,
    from_main,
    rank,
    resolve_device,
    world_size,
)  # fmt: skip
from densebench.results.score import Point, Score, heading, without_seed

CHUNK = 65536  # rows (patches) processed at once
IN_MEMORY = 4 * 2**30  # bytes of rows that stay in main memory between passes; more are read again


@dataclass(frozen=True)
class Linear(FewShot, Labeller):
    """Options of the linear probe; see the module for what the presets are."""

    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lbfgs": {}}

    labels: str = setting("soft", "label of a patch: shares of classes, or the majority class", choices=("soft", "majority"))
    standardise: bool = setting(True, "give each feature mean 0 and deviation 1 over the training patches")
    l2: tuple[float, ...] = setting(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2), "strengths of regularisation; of several the best on a tenth of train is taken", minimum=0
    )
    iterations: int = setting(500, "most iterations of L-BFGS", minimum=1, maximum=1_000_000)
    tolerance: float = setting(1e-4, "the fit ends once no entry of the gradient is larger than this", minimum=0)

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the labels and features of train, the features of the scored images, the fits and the scoring."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        points = [point for point in self.points(dataset) if point not in run.known]
        space, view = LabelSpace(dataset, "drop", self.other_class), whole_view(self, backbone, dataset)
        used, labelling = self.used(dataset, train, points), Labelling(backbone.stride, space.classes, self.labels)
        return [
            Stage("labels", used, sample=label_sample(space, [view], labelling)),
            features_stage(self, backbone, dataset, used, view, "features of train"),
            features_stage(self, backbone, dataset, val, view, "features of the scored split"),
            Stage(f"{len(points)} fits", used),
            Stage("scoring", val),
        ]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Fit every point that is not known yet, then label the validation images with all of them in one pass."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        points = [point for point in self.points(dataset) if point not in run.known]
        space, view = LabelSpace(dataset, "drop", self.other_class), whole_view(self, backbone, dataset)
        with run.stage("labels"):
            chosen = self.choose(dataset, train, points)
            used = [train[i] for i in np.flatnonzero(chosen.any(0))]
            labelled = self.labelled(space, view, backbone.stride, used)
        with run.stage("features"):
            rows, queries = (features_of(self, backbone, dataset, items, view) for items in (used, val))
        probe = Probe(self, dataset, space, view, rows, resolve_device(self.device))
        held = [[views for views, inside in zip(labelled, row, strict=True) if inside] for row in chosen[:, chosen.any(0)]]
        with run.stage("fit"), run.workspace("linear") as folder:
            store = Store(folder, {"protocol": "linear"})
            fitted = probe.fitted(points, held, store)
        with run.stage("scoring"):
            weights = torch.stack([layer.weights for layer in fitted])
            layers = replace(probe.layers, features=queries)
            counts = layers.count(val, weights)
        names = [item.name for item in val]
        for number, (point, layer) in enumerate(zip(points, fitted, strict=True)):
            details = {**census(space, held[number]), **layer.details}
            scores = counts.scores(names, number, space.names, self.absent, point, details)  # type: ignore[arg-type]
            yield from sorted(scores, key=lambda score: (score.metric, score.variant) == ("miou", "identity"))
        if self.visualise and run.pictures is not None:
            largest = max(range(len(points)), key=lambda number: len(held[number]))
            layers.draw(limited(val, self.visualise), weights[largest], run.pictures)

    def learn(self, backbone: Backbone, dataset: Dataset, train: Sequence[Item]) -> LearnedLayer:
        """Fit one layer to the patches of all the images, as `Labeller.learn` says."""
        space, view = LabelSpace(dataset, "drop", self.other_class), whole_view(self, backbone, dataset)
        labelled = self.labelled(space, view, backbone.stride, train)
        rows = features_of(self, backbone, dataset, train, view)
        probe = Probe(self, dataset, space, view, rows, resolve_device(self.device))
        with tempfile.TemporaryDirectory(prefix="densebench-") as folder:
            fitted = probe.fitted([(("fraction", 1),)], [labelled], Store(Path(folder), {"protocol": "linear"}))[0]
        extraction = partial(extraction_of, self, backbone, view=view)
        details = {**census(space, labelled), **fitted.details}
        return LearnedLayer(space, space.names, view, extraction, self.extracted, details, probe.layers, fitted.weights)

    def labelled(self, space: LabelSpace, view: View, patch: int, used: Sequence[Item]) -> list[LabelledView]:
        """Read the label maps of training images as the view shows them. patch: px of a feature."""
        labelling = Labelling(patch, space.classes, self.labels)
        return read_labelled_views(space, used, [view], labelling, [None] * len(used))


@dataclass(frozen=True)
class Fitted:
    """A linear layer on raw (not standardised) features, and how it was fitted."""

    weights: Float[Tensor, "d_plus_1 c"]
    details: dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """One backbone's features on one data set, ready to be fitted and scored."""

    options: Linear
    dataset: Dataset
    space: LabelSpace
    view: View
    features: Features
    device: torch.device

    @property
    def layers(self) -> Layers:
        """What labels training images, from their features."""
        return Layers(self.dataset, self.space, self.view, self.features, self.device)

    def fitted(self, points: Sequence[Point], held: Sequence[Sequence[LabelledView]], store: Store) -> list[Fitted]:
        """Return the layer of every point, which learns from the views that `held` has for it.

        Layers that a killed run has fitted come from the store. Several processes work on one large fit after the other together,
        and deal out small ones whole. Raises UserError where no patch of a point has a class.
        """
        for point, labelled in zip(points, held, strict=True):
            if not any(len(view.patches) for view in labelled):
                at = heading(without_seed(point))
                raise UserError(f"no patch of the {len(labelled)} training images of {at} has a class; check their label maps")
        names = [digest([list(p), [view.item.name for view in views]], 16) for p, views in zip(points, held, strict=True)]
        solved = from_main(lambda: {n: (store[n].clone(), store[f"{n} facts"].clone()) for n in names if n in store})
        lacking = [number for number, name in enumerate(names) if name not in solved]
        small = [number for number in lacking if len(chunks(held[number])) < world_size()]
        small = sorted(small, key=lambda number: -len(held[number])) if len(small) >= world_size() else []
        for number in sorted({*lacking} - {*small}):
            solved[names[number]] = self.solution(held[number])
            if rank() == 0:
                store.add(_named(names[number], *solved[names[number]]))
        found = []
        for number in dealt(small):
            with alone():
                found.append((names[number], self.solution(held[number])))
            store.add(_named(names[number], *found[-1][1]))
        solved |= dict(collected(found))
        for number in lacking:
            if not solved[names[number]][1][2]:
                at = heading(without_seed(points[number]))
                warn(f"the fit at {at} ended at --iterations {self.options.iterations} above the tolerance")
        return [self.described(*solved[name]) for name in names]

    def solution(self, labelled: Sequence[LabelledView]) -> tuple[Float[Tensor, "d_plus_1 c"], Float[Tensor, " facts"]]:
        """Return weights and the facts that `described` reads: regularisation is chosen on a tenth of the images, then all are
        fitted.
        """
        values, near, best = torch.zeros(len(self.options.l2)), None, 0
        if len(self.options.l2) > 1:
            values, candidates = self.select(labelled)
            best = int(values.argmax())
            near = candidates[[best]]
        l2 = self.options.l2[best]
        weights, minimum = self.fit(labelled, (l2,), near)
        facts = [l2, float(minimum.iterations[0]), float(minimum.converged[0]), *values.tolist()]
        return weights[0].cpu(), torch.tensor(facts, dtype=torch.float64)

    def described(self, weights: Float[Tensor, "d_plus_1 c"], facts: Float[Tensor, " facts"]) -> Fitted:
        """Return a layer with the details of its fit."""
        saved: list[float] = facts.tolist()
        details: dict[str, Any] = {"l2": saved[0], "iterations": int(saved[1]), "converged": bool(saved[2])}
        if len(self.options.l2) > 1:
            details["selection"] = {f"{l2:g}": round(value, 2) for l2, value in zip(self.options.l2, saved[3:], strict=True)}
        return Fitted(weights.to(self.device), details)

    def select(self, labelled: Sequence[LabelledView]) -> tuple[Float[Tensor, " l"], Float[Tensor, "l d_plus_1 c"]]:
        """Return for each strength the mIoU in % on a tenth of the images, and the weights that were fitted on the others.

        Raises UserError where there are fewer than two images.
        """
        if len(labelled) < 2:
            raise UserError(
                f"choosing among --l2 {','.join(f'{v:g}' for v in self.options.l2)} takes two training images; give one"
            )
        chosen = held_out(len(labelled))
        rest = sorted(set(range(len(labelled))) - set(chosen))
        weights, _ = self.fit([labelled[i] for i in rest], self.options.l2)
        counted = self.layers.confusions(dealt([labelled[i].item for i in chosen]), weights)
        confusion = sum(collected([sum(of_image for _, of_image in counted)]))
        ious = metrics.iou(metrics.tallies(torch.as_tensor(confusion)))
        return 100 * metrics.mean_iou(ious, "skip").nan_to_num(0.0).float(), weights

    def fit(
        self, labelled: Sequence[LabelledView], l2: Sequence[float], near: Float[Tensor, "l d_plus_1 c"] | None = None
    ) -> tuple[Float[Tensor, "l d_plus_1 c"], Minimum]:
        """Return weights for raw features (standardisation is folded in) for each strength, and the minimum that was reached.

        near: weights to start from; None: zeros. Several processes divide the rows, by whole chunks.
        """
        mean, scale = self.statistics(labelled)
        if near is not None:
            bias = near[:, -1:] + (mean[:, None] * near[:, :-1]).sum(dim=1, keepdim=True)
            near = torch.cat([near[:, :-1] * scale[:, None], bias], dim=1)
        rows = self.rows(labelled, mean, scale)
        options = self.options
        weights, minimum = fit(
            rows,
            len(mean),
            self.space.classes,
            l2,
            iterations=options.iterations,
            tolerance=options.tolerance,
            device=self.device,
            start=near,
            adding=add_all_parts,
        )
        slopes = weights[:, :-1] / scale[:, None]
        bias = weights[:, -1:] - (mean[:, None] * slopes).sum(dim=1, keepdim=True)
        return torch.cat([slopes, bias], dim=1), minimum

    def statistics(self, labelled: Sequence[LabelledView]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """Return mean and standard deviation of each feature over the rows that are fitted; 0 and 1 without --standardise."""
        width = self.features[labelled[0].item].shape[-1]
        if not self.options.standardise or not any(len(view.patches) for view in labelled):
            return torch.zeros(width, device=self.device), torch.ones(width, device=self.device)
        mine = (view for chunk in consecutive(chunks(labelled)) for view in chunk)
        total = torch.zeros(3, width, dtype=torch.float64)
        add_all_parts([total], ([sums(self.features[view.item].flatten(0, 1)[view.patches])] for view in mine))
        mean, variance = of_sums(total)
        return mean.float().to(self.device), variance.clamp(min=1e-12).sqrt().float().to(self.device)

    def rows(self, labelled: Sequence[LabelledView], mean: Tensor, scale: Tensor) -> Rows:
        """Return a function that yields this process's rows in chunks: from memory where they fit, else read in every pass."""
        mine = consecutive(chunks(labelled))

        def read() -> Iterator[tuple[Tensor, Tensor]]:
            for views in mine:
                yield self.chunk(views, mean, scale)

        width = len(mean) + self.space.classes
        room = free_bytes(self.device) // 2 if self.device.type == "cuda" else IN_MEMORY
        if 4 * width * sum(len(view.patches) for views in mine for view in views) > room:
            return read
        held = list(read())
        return lambda: held

    def chunk(
        self, labelled: Sequence[LabelledView], mean: Tensor, scale: Tensor
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m c"]]:
        """Return standardised features and labels of a few images."""
        x = on_device(torch.cat([self.features[view.item].flatten(0, 1)[view.patches] for view in labelled]), self.device)
        y = on_device(torch.cat([view.labels for view in labelled]), self.device)
        return (x.float() - mean) / scale, y.float()


def chunks(labelled: Sequence[LabelledView]) -> list[list[LabelledView]]:
    """Return the views by whole images in chunks of at least CHUNK rows; the last one may have fewer."""
    result: list[list[LabelledView]] = []
    rows = CHUNK
    for view in labelled:
        if rows >= CHUNK:
            result.append([])
            rows = 0
        result[-1].append(view)
        rows += len(view.patches)
    return result


def _named(name: str, weights: Tensor, facts: Tensor) -> dict[str, Tensor]:
    """Return what the store holds of a fitted layer."""
    return {name: weights, f"{name} facts": facts}
