"""k nearest neighbours aligned with boxes: does a patch inside an object tell the object's class?

Su et al., FLSL: Feature-level Self-supervised Learning, NeurIPS 2023, section 5, "Protocol for hyperparameter tuning". No
training. The largest box of an image is divided into 3 x 3 cells; the nine patches under their centres stand for the image. Those
of the training images are the memory, those of the validation images the queries. The k nearest (cosine) vote for their image's
class, weighted by exp(cosine / 0.07). An image is right if any of its nine patches is.

Images are resized to a short side of 256 px, and the central 224 x 224 px are cropped. Two points may share a patch, which then
counts twice.

- flsl: the protocol of the paper. The largest box of the whole image counts. Its nine points are mapped into the crop; a point
  outside of the crop takes the nearest patch at its border. The paper states neither, and its code does otherwise.
- flsl-code: as in its code. It scales the x and the y of all boxes separately to 256 px, although images keep their aspect (which
  is right for square images only), subtracts 16, clips to 0 .. 223.999, and only then chooses the largest box; the nine points
  are those of the clipped box. So they always lie in the crop, and another box may count.

The code also adds up the hits of all nine patches for its top-5, which may then exceed 100 %; here top-5 is the share of images
of which any patch has the true class among its first five. Images are resized bicubically, as in DINO's k-NN evaluation from
which the code comes. Ties in the vote go to the lower class. The paper does not say what becomes of images without a box: here
they are left out, and the record says how many.

The class of an image is that of its largest box that is no group (crowd). On ImageNet that is nearly always the image's label.
COCO can be used where ImageNet is not at hand; no paper has reported numbers on it.

Number to reach: ImageNet, FLSL ViT-S/16 after 100 epochs, 72.4 (table 6, 4096 centroids; k is not stated).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.console import progress
from densebench.costs import measured
from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.evaluation.option_groups import check_two_splits
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.features.extract import DTYPES, Extraction, Features
from densebench.features.views import CentreCropView
from densebench.numerics.bootstrap import bootstrap_mean, interval
from densebench.numerics.boxes import SIDE, cell_centres, clipped_to_crop, in_crop, largest, patches_at
from densebench.numerics.device_copy import joined_on_device, on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.numerics.search import EXACT_ENGINES, Search, nearest, recall
from densebench.numerics.votes import classes_before
from densebench.options import axis, setting
from densebench.processes import collected, dealt, from_main, in_order, resolve_device
from densebench.results.score import Point, Score

NINE = SIDE * SIDE
IMAGES = 256  # images whose patches are searched at once: bounds the memory of the search and changes no result
RECALL_QUERIES = 1024


@dataclass(frozen=True)
class Boxes:
    """The images of a split that have a box: the class of the largest box, and its nine patches (flat indices) by image name.

    without: the number of images without a box.
    """

    items: Sequence[Item]
    classes: Int[Tensor, "images"]
    patches: Mapping[str, Int[Tensor, "9"]]
    without: int


@dataclass(frozen=True)
class BboxKnn(Evaluator):
    """Options of box-aligned nearest neighbours; see the module for what the presets are."""

    version: ClassVar[int] = 1
    published_as: ClassVar[Mapping[str, str]] = {"flsl": "bbox-knn (ablation)"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"flsl": {}, "flsl-code": {"mapping": "clipped"}}
    takes: ClassVar[str] = "boxes"

    image_size: int = setting(224, "side of the centre crop in px, a multiple of the stride", minimum=1, maximum=16_384)
    short_side: int = setting(256, "short side to which images are resized before the crop, in px", minimum=1, maximum=16_384)
    resample: str = setting("bicubic", "how images are resized", choices=("bilinear", "bicubic"))
    mapping: str = setting(
        "right", "how boxes are mapped into the crop; clipped: as in FLSL's code", choices=("right", "clipped")
    )
    temperature: float = setting(0.07, "temperature of the votes, exp(cosine / temperature)", minimum=1e-3)
    engine: str = setting("exact", "search engine", choices=("exact", "faiss", "faiss-ivf", "scann"))
    train_split: str | None = setting(None, "split of the memory; none: the data set's own")
    eval_split: str | None = setting(None, "split that is scored; none: the data set's own")
    neighbours: tuple[int, ...] = axis((10, 20, 100, 200), "number of neighbours that vote", minimum=1, maximum=1_000_000)

    def headline(self) -> dict[str, str]:
        """Return what tables show: the share of images of which any patch is right."""
        return {"metric": "top1", "variant": "any-patch"}

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the settings that decide the number: all exact engines count as the same setting."""
        return {**super().settings(dataset), "engine": "exact" if self.engine in EXACT_ENGINES else self.engine}

    def resolve(self, dataset: Dataset) -> BboxKnn:
        """Fill in the splits.

        Raises UserError where memory and queries are the same split (every patch would find itself), or for a single class.
        """
        if len(dataset.classes) == 1:
            raise UserError(f"--dataset {dataset.name} has one class, which is always right; give one with several")
        train, scored = self.splits(dataset)
        check_two_splits(dataset, train, scored)
        if train == scored:
            raise UserError(f"--eval-split {scored} is the split of the memory too, where each patch finds itself; name another")
        return replace(super().resolve(dataset), neighbours=tuple(dict.fromkeys(self.neighbours)))

    def scored(self, items: Sequence[Item], dataset: Dataset) -> Sequence[Item]:
        """Return the images that have a box."""
        assert isinstance(dataset, Boxed)
        return [item for item in items if has_box(dataset.objects(item))]

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for every k."""
        return [(("k", k),) for k in self.neighbours]

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the features of memory and queries, nine patches of each image with a box, and the search."""
        assert isinstance(dataset, Boxed)
        backbone.check_size(self.image_size, self.image_size)
        view = CentreCropView(self.image_size, self.short_side, self.resample)  # type: ignore[arg-type]
        parts = [
            self.boxes(dataset, split, dataset.part(split, run.limit), view, backbone.stride) for split in self.splits(dataset)
        ]
        names = ("features of train", "features of the scored split")
        wanted = [self.extraction(backbone, dataset, part, view) for part in parts]
        stages = [Stage(name, part.items, each) for name, part, each in zip(names, parts, wanted, strict=True)]
        return [*stages, Stage("search", parts[1].items)]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Read boxes first (they fail early), then extract features, then search once for every k that is not known yet."""
        assert isinstance(dataset, Boxed)
        ks = [dict(point)["k"] for point in self.points(dataset) if point not in run.known]
        backbone.check_size(self.image_size, self.image_size)
        view = CentreCropView(self.image_size, self.short_side, self.resample)  # type: ignore[arg-type]
        with run.stage("boxes"):
            train, scored = (
                self.boxes(dataset, split, dataset.part(split, run.limit), view, backbone.stride)
                for split in self.splits(dataset)
            )
        if max(ks) > NINE * len(train.items):
            raise UserError(
                f"--neighbours {max(ks)}: the memory holds {NINE * len(train.items)} patches, {NINE} of each of "
                f"{len(train.items)} images with a box; ask for fewer neighbours or give more images"
            )
        with run.stage("features"):
            memory, queries = (self.extracted(self.extraction(backbone, dataset, part, view)) for part in (train, scored))
        with run.stage("search"):
            before, details = self.search(train, scored, memory, queries, ks, len(dataset.classes))
        details |= {"memory": NINE * len(train.items), "images": len(scored.items)}
        details |= {"without_box": scored.without, "memory_without_box": train.without}
        for k, of_k in zip(ks, before, strict=True):
            yield from self.scores(of_k, scored, dataset, (("k", k),), details)

    def boxes(self, dataset: Boxed, split: str, items: Sequence[Item], view: CentreCropView, stride: int) -> Boxes:
        """Return the nine patches of every image of a split. Raises UserError where no image has a box.

        Each process looks at some of the images, and gets what the others found.
        """
        own, found, side = dealt(items), list[tuple[int, Tensor] | None](), view.size // stride
        with progress(f"boxes of {split}", len(own)) as bar:
            for item in own:
                objects = dataset.objects(item)
                bar.advance()
                found.append(None)
                if has_box(objects):
                    index, points = nine_points(objects, *dataset.image_size(item), view, self.mapping)
                    found[-1] = (int(objects.classes[index]), patches_at(points, stride, (side, side)))
        boxed = [(item, *box) for item, box in zip(items, collected(found), strict=True) if box is not None]
        if not boxed:
            raise UserError(f"none of the {len(items)} images of {dataset.name} {split} has a box; give more images")
        patches = {item.name: nine for item, _, nine in boxed}
        classes = torch.tensor([label for _, label, _ in boxed])
        return Boxes([item for item, *_ in boxed], classes, patches, len(items) - len(boxed))

    def extraction(self, backbone: Backbone, dataset: Dataset, boxes: Boxes, view: CentreCropView) -> Extraction:
        """Return what to extract: the features `[9 d]` of every image with a box."""
        return Extraction(backbone, dataset, boxes.items, view, boxes.patches, precision=self.precision)

    def search(
        self, train: Boxes, scored: Boxes, memory: Features, queries: Features, ks: Sequence[int], classes: int
    ) -> tuple[Int[Tensor, "ks images 9"], dict[str, Any]]:
        """Return for every k and patch how many classes come before the true one in the vote, and details of the search.

        Every process has the whole memory, nine patches an image, and searches for the patches of some of the scored images.
        """
        rows = torch.empty(NINE * len(train.items), memory[train.items[0]].shape[1], dtype=DTYPES[self.precision])
        for nine, item in zip(rows.split(NINE), train.items, strict=True):
            nine[:] = F.normalize(memory[item].float(), dim=1)
        rows = on_device(rows, resolve_device(self.device))
        own = dealt(scored.items)
        labels = on_device(train.classes.repeat_interleave(NINE), rows.device)
        truth = on_device(scored.classes[dealt(range(len(scored.items)))].repeat_interleave(NINE), rows.device)
        search = Search(rows, torch.tensor([len(rows)]), torch.ones(1, 1, dtype=torch.bool), engine=self.engine)

        def patches_of(images: Sequence[Item]) -> Float[Tensor, "q d"]:
            return F.normalize(joined_on_device([queries[item] for item in images], rows.device).float(), dim=1)

        def voted() -> Iterator[HostCopy]:
            for start in range(0, len(own), IMAGES):
                part = own[start : start + IMAGES]
                patches = patches_of(part)
                with measured("search", rows.device, flop=2.0 * len(patches) * rows.numel() if self.engine == "exact" else 0.0):
                    near = search.search(patches, max(ks))
                of_part = truth[NINE * start : NINE * (start + len(part))]
                yield HostCopy(classes_before(near.score[0], labels[near.index[0]], of_part, ks, self.temperature, classes))

        before = [torch.zeros(len(ks), 0, dtype=torch.int64)]
        with progress("search", len(own)) as bar:
            for copy in one_late(voted(), rows.device):
                before.append(copy.value())
                bar.advance(before[-1].shape[1] // NINE)
        fallbacks = [count for count in collected([search.fallbacks]) if count is not None]
        about: dict[str, Any] = {"search_fallbacks": sum(fallbacks)} if fallbacks else {}
        if self.engine not in EXACT_ENGINES:

            def hits() -> float:
                sample = patches_of(scored.items[:: -(-NINE * len(scored.items) // RECALL_QUERIES)])
                return recall(search.search(sample, max(ks)).index[0], nearest(sample, rows, max(ks)).index)

            about = {"engine": self.engine, "recall": round(from_main(hits), 4)}
        of_images = torch.cat(before, 1).unflatten(1, (-1, NINE)).movedim(1, 0)
        return in_order(of_images).movedim(0, 1), about

    def scores(
        self, before: Int[Tensor, "images 9"], scored: Boxes, dataset: Dataset, point: Point, details: dict[str, Any]
    ) -> list[Score]:
        """Return top-1 and top-5 of one k, patch by patch and by any patch, the headline last."""
        first = {"top5": before < 5, "top1": before < 1}
        classes = scored.classes.numpy()
        kinds = [(name, variant) for name in first for variant in ("patch", "any-patch")]
        return [accuracy(first[name], name, variant, classes, dataset.classes, point, details) for name, variant in kinds]


def has_box(objects: Objects) -> bool:
    """Return whether an image has a box that counts: no crowd, and with an area above 0."""
    return largest(objects.boxes, objects.crowd) is not None


def nine_points(
    objects: Objects, width: int, height: int, view: CentreCropView, mapping: str
) -> tuple[int, Float[Tensor, "9 2"]]:
    """Return the index of the object that decides an image's class, and its nine points (x, y) in the view; width, height in px.

    mapping: "right" chooses the largest box and then maps its points; "clipped" maps and clips all boxes, and then chooses the
    largest. Where no box has an area (in the image, or in the crop), the first object that is no crowd is taken.
    """
    boxes, resized = torch.tensor(objects.boxes), view.resized(width, height)
    if mapping == "clipped":
        corner = view.corner(view.short_side, view.short_side)
        boxes = clipped_to_crop(boxes, (width, height), view.short_side, corner, view.size)
    index = largest(boxes.numpy(), objects.crowd)
    index = int((~objects.crowd).argmax()) if index is None else index
    points = cell_centres(boxes[index])
    return index, points if mapping == "clipped" else in_crop(points, (width, height), resized, view.corner(*resized))


def accuracy(
    right: Bool[Tensor, "images 9"],
    metric: str,
    variant: str,
    classes: Int[np.ndarray, "images"],
    names: Sequence[str],
    point: Point,
    details: dict[str, Any],
) -> Score:
    """Return the share in % of images of which any patch is right ("any-patch"), or the mean share of right patches ("patch")."""
    values = 100 * (right.any(1) if variant == "any-patch" else right).double().view(len(right), -1).mean(1)
    resampled = bootstrap_mean(values)
    of_image = values.numpy()
    return Score(
        metric,
        variant,
        float(values.mean()),
        axes=dict(point),
        ci95=interval(resampled),
        per_class={name: float(of_image[classes == c].mean()) if (classes == c).any() else None for c, name in enumerate(names)},
        bootstrap=tuple(resampled.tolist()),
        details=details,
        direction="higher",
    )
