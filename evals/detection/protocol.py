"""Detection: a backbone fine-tuned under Mask R-CNN or Faster R-CNN, scored by average precision.

He et al., Mask R-CNN, ICCV 2017, with torchvision's detectors. The presets restate what FLSL (Su et al., NeurIPS 2023, sections
5.1 and 5.2) does with MMDetection 2 and detectron2:

- flsl: Mask R-CNN on COCO. FPN on blocks 3, 5, 7 and 11 (from 0) of a ViT-S, 12 epochs, AdamW 5e-5 with weight decay 0.05 (not
  for norms, positions and the class token), a tenth after 8 and 11 epochs, 1000 iterations of warm-up, stochastic depth 0.05,
  DETR's multi-scale training, one image a GPU. The number of GPUs is not stated. The code derives from Swin's recipe for 16
  images a step; half of its learning rate and twice its warm-up suggest 8, which is taken here. Scored at a short side of 800 px,
  a long side of 1333. FLSL's configuration, like SelfPatch's, has num_heads=8 for a ViT-S; here the model keeps the 6 heads of
  its pretraining.
- vitdet: Mask R-CNN on COCO as in ViTDet (Li et al., ECCV 2022), detectron2's recipe: simple pyramid on the last block, heads
  with layer norm (four convolutions before the boxes, two in the proposals), large-scale jitter at 1024 px, 100 epochs of 64
  images, AdamW 1e-4, weight decay 0.1, layer-wise decay 0.7, stochastic depth 0.1, a tenth after 88.889 and 96.296 epochs. FLSL's
  repository has no configuration for it. ViTDet's windowed attention and relative positions are not restated: every block sees
  the whole image.
- uavdt: Faster R-CNN on UAVDT, class-agnostic AP at IoU 0.7 without what lies in ignored regions (the official toolkit). FLSL
  says "settings of ClusDet" (Yang et al., ICCV 2019) and a 1x schedule, but has no configuration. Here: ClusDet's 600 x 1000 px
  and 500 detections an image, FLSL's optimiser and 12 epochs, a single scale. ClusDet's cutting of images into chips is not
  restated.

Images without an object to learn from (groups do not count) are left out of the training, as in the official codes. Position
tables are trained at the checkpoint's own grid and resized in every pass; `--layer` of four blocks builds the FPN on these.
`--iterations` shortens a run; its numbers are marked as not comparable. Differences that remain: torchvision's smooth L1 loss,
images resized by Pillow, in training as in scoring (MMDetection takes OpenCV), fp32 unless `--precision` says otherwise (the
codes use fp16).

With several processes the gradient of a step is the mean of theirs. The reference's SyncBatchNorm over all images of a step, in
the FPN's deconvolutions, is not restated: batch norms see the images of one pass (`--at-once`), and after the last iteration
their running statistics are taken anew, as means over passes of 200 training samples, whatever the number of processes.

Numbers to reach (AP of boxes, of masks; FLSL tables 1, 2 and 3): COCO, ViT-S/16 DINO 40.8, 37.3, FLSL 44.9, 40.8; ViT-S/8 FLSL
46.5, 42.1; ViTDet, ViT-B/16 DINO 48.9, 43.7, FLSL 53.1, 47.0; UAVDT, ViT-S/16 DINO 48.9, FLSL 53.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from densebench.backbones.backbone import Backbone
from densebench.bridges.torchvision.data import check_batch
from densebench.bridges.torchvision.detector import build
from densebench.bridges.torchvision.inference import detect, read_detections
from densebench.bridges.torchvision.options import Data, iterations_of
from densebench.bridges.torchvision.training import train
from densebench.console import notice, progress
from densebench.datasets.boxes import Boxed
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.errors import UserError
from densebench.evals.detection.average_precision import CocoPrecision, Scored, agnostic_precision
from densebench.evals.detection.pictures import picture_of
from densebench.evaluation.option_groups import check_two_splits
from densebench.evaluation.protocol import Evaluator, Run
from densebench.evaluation.stages import Stage
from densebench.extras import check_installed
from densebench.options import runtime, setting
from densebench.pictures.canvas import save
from densebench.processes import here, resolve_device, resolve_workers, synchronise
from densebench.results.score import Score

ASPECT = 1333 / 800  # default ratio of the largest long side to the short side


@dataclass(frozen=True)
class Detection(Evaluator):
    """Options of the fine-tuning; the head of this file says what the presets are."""

    version: ClassVar[int] = 1
    fine_tunes: ClassVar[bool] = True
    takes: ClassVar[str] = "boxes"
    draws_later: ClassVar[bool] = False
    published_as: ClassVar[Mapping[str, str]] = {
        "flsl": "detection-maskrcnn-coco",
        "vitdet": "detection-vitdet-coco",
        "uavdt": "detection-fasterrcnn-uavdt",
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "flsl": {},
        "vitdet": {
            "pyramid": "simple",
            "heads": "normed",
            "augmentation": "lsj",
            "short_side": 1024,
            "epochs": 100,
            "steps": (88.889, 96.296),
            "warmup": 250,
            "train_batch": 64,
            "learning_rate": 1e-4,
            "weight_decay": 0.1,
            "layer_decay": 0.7,
            "drop_path": 0.1,
        },
        "uavdt": {
            "model": "faster-rcnn",
            "augmentation": "flip",
            "short_side": 600,
            "long_side": 1000,
            "detections": 500,
            "metric": "uavdt",
        },
    }

    model: str = setting(
        "mask-rcnn", "detector: Mask R-CNN (boxes and masks) or Faster R-CNN (boxes only)", choices=("mask-rcnn", "faster-rcnn")
    )
    pyramid: str = setting(
        "fpn", "feature pyramid, built on four layers (fpn) or on the last one (simple)", choices=("fpn", "simple")
    )
    width: int = setting(256, "channels of the pyramid and of the heads", minimum=1, maximum=65_536)
    heads: str = setting(
        "plain", "heads of the detector: plain, or with layer norm as in ViTDet (normed)", choices=("plain", "normed")
    )
    metric: str = setting("coco", "COCO's AP, or UAVDT's AP, in which all classes count as one", choices=("coco", "uavdt"))
    iou: float = setting(0.7, "least IoU of a right detection with its object (--metric uavdt)", minimum=0)
    iterations: int | None = setting(
        None,
        "length of training; none: the published length; any other is marked as not comparable",
        minimum=1,
        maximum=100_000_000,
    )
    epochs: int = setting(12, "passes over those training images that show an object", minimum=1, maximum=100_000)
    steps: tuple[float, ...] = setting((8.0, 11.0), "epochs after which the learning rate falls to a tenth", minimum=0)
    warmup: int = setting(1000, "iterations over which the learning rate rises, at most a tenth of the run", minimum=0)
    train_batch: int = setting(8, "images in a step, over all processes", minimum=1, maximum=65_536)
    at_once: int = setting(1, "images in one forward pass, padded to one size", minimum=1, maximum=65_536)
    learning_rate: float = setting(5e-5, "learning rate of AdamW", minimum=0)
    weight_decay: float = setting(0.05, "weight decay of AdamW; norms, positions and tokens have none", minimum=0)
    layer_decay: float = setting(1.0, "factor of the learning rate from each block to the one below", minimum=0)
    drop_path: float = setting(0.05, "stochastic depth of the last block while training", minimum=0)
    clip: float = setting(0.0, "largest norm of the gradient; 0: no limit", minimum=0)
    augmentation: str = setting("detr", "augmentation of training images", choices=("detr", "scales", "lsj", "flip"))
    short_side: int = setting(
        800, "short side of images in px; the scales of the augmentation are relative to it", minimum=16, maximum=16_384
    )
    long_side: int | None = setting(
        None,
        "largest long side of images in px; none: 1333/800 of the short side, with lsj the short side",
        minimum=16,
        maximum=16_384,
    )
    regions: int = setting(512, "regions of an image from which the heads learn", minimum=4, maximum=1_000_000)
    detections: int = setting(100, "most detections in an image", minimum=1, maximum=1_000_000)
    train_seed: int = setting(0, "seed of initial weights, order and augmentation", minimum=0)
    train_split: str | None = setting(None, "split that is learned from; none: the data set's own")
    eval_split: str | None = setting(None, "split that is scored; none: the data set's own")
    visualise: int = runtime(0, "number of scored images to draw, with truth and detections", minimum=0, maximum=100_000)

    def headline(self) -> dict[str, str]:
        """Return what tables show: AP of boxes, or with --metric uavdt the class-agnostic AP."""
        return {"metric": "ap", "variant": "class-agnostic" if self.metric == "uavdt" else "box"}

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """Return the settings that decide the number, and whether the run has the published length (`comparable`)."""
        return {**super().settings(dataset), "long_side": self.longest, "comparable": self.iterations is None}

    @property
    def longest(self) -> int:
        """The largest long side in px; large-scale jitter makes squares, so there it is the short side."""
        return self.long_side or round(self.short_side * (1 if self.augmentation == "lsj" else ASPECT))

    def resolve(self, dataset: Dataset) -> Detection:
        """Fill in the splits. Raises UserError for options that do not go together."""
        if self.model == "mask-rcnn" and not getattr(dataset, "has_masks", False):
            raise UserError(f"--model mask-rcnn: {dataset.name} has boxes without masks; use --model faster-rcnn")
        if self.drop_path >= 1:
            raise UserError(f"--drop-path {self.drop_path:g}: it is the share of dropped blocks and must be below 1")
        if self.augmentation == "lsj" and self.longest != self.short_side:
            raise UserError(
                f"--long-side {self.longest}: --augmentation lsj cuts images to a square of --short-side {self.short_side}; "
                "leave the long side out"
            )
        if self.longest < self.short_side:
            raise UserError(f"--long-side {self.longest}: it is shorter than --short-side {self.short_side}; give at least that")
        if self.iou > 1:
            raise UserError(f"--iou {self.iou:g}: an IoU is 1 at most; give less")
        check_two_splits(dataset, *self.splits(dataset))
        check_batch(self, self.gpus)
        check_installed("pycocotools", "COCO's average precision")  # it computes the score, hours later
        return super().resolve(dataset)

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the training and the detection; neither stores features, and nothing short can measure their time."""
        assert isinstance(dataset, Boxed), "`takes` ensures it"
        train_items, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        learned = with_objects(dataset, train_items, "training images")
        images = iterations_of(self, len(learned)) * self.train_batch
        return [Stage("training", learned, passes=images / len(learned)), Stage("detection", val)]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Read annotations first (they fail early), then train, detect and score; a killed run resumes from where it was."""
        assert isinstance(dataset, Boxed), "`takes` ensures it"
        train_items, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        with run.stage("annotations"):
            learned = with_objects(dataset, train_items, "training images")
            with_objects(dataset, val, "images that are scored")
        if len(learned) < len(train_items):
            notice(f"{len(train_items) - len(learned)} of {len(train_items)} training images show no object: they are left out")
        data = Data(dataset, learned, val, agnostic=self.metric == "uavdt")
        iterations, world = iterations_of(self, len(learned)), here(resolve_device(self.device))
        detector = build(backbone, data.classes, self)
        with run.workspace("detection", world.size) as folder:
            with run.stage("training"):
                curve = train(detector, data, self, folder, world, resolve_workers(self.workers, iterations * self.train_batch))
            with run.stage("detection"):
                detect(detector, data, self, folder, world, resolve_workers(self.workers, len(val)))
            synchronise()  # all processes have written their detections
            if world.is_main:
                if self.visualise and run.pictures is not None:  # before the point counts as known and is not trained again
                    draw(data, limited(val, self.visualise), folder, run.pictures)
                details: dict[str, Any] = {"images": len(learned), "without_objects": len(train_items) - len(learned)}
                details |= {"iterations": iterations, "loss": round(curve[-1][1], 4)}
                with run.stage("scoring"):
                    yield from self.scores(data, folder, details)
            synchronise()  # no process removes the folder before it has been read

    def scores(self, data: Data, folder: Path, details: dict[str, Any]) -> Iterator[Score]:
        """Yield all scores; the headline comes last."""
        if self.metric == "uavdt":
            value, objects, away = agnostic_precision(scored_images(data, data.val, folder), self.iou)
            details = {**details, "iou": self.iou, "objects": objects, "ignored": away}
            yield Score("ap", "class-agnostic", value, details=details, direction="higher")
            return
        for masks in (True, False) if self.model == "mask-rcnn" else (False,):
            metric = CocoPrecision(data.dataset.classes, masks)
            with progress("scoring masks" if masks else "scoring boxes", len(data.val)) as bar:
                for image in scored_images(data, data.val, folder):
                    metric.add(image)
                    bar.advance()
            values = metric.values()
            for name in reversed(values):
                value, by_class = values[name]
                per_class, variant = by_class if name == "ap" else {}, "mask" if masks else "box"
                yield Score(name, variant, value, per_class=per_class, details=details, direction="higher")


def with_objects(dataset: Boxed, items: Sequence[Item], what: str) -> list[Item]:
    """Return the images that show an object that is no group. Raises UserError without one, and for broken annotations."""
    shown = [item for item in items if not dataset.objects(item).crowd.all()]
    if not shown:
        raise UserError(f"{dataset.name} has no object in the {len(items)} {what}; check its annotations")
    return shown


def scored_images(data: Data, items: Sequence[Item], folder: Path) -> Iterator[Scored]:
    """Yield the objects and the detections of those items whose detections are written, image by image."""
    wanted = {item.name: item for item in items}
    for detections in read_detections(folder):
        if detections.image in wanted:
            item = wanted.pop(detections.image)
            width, height = data.dataset.image_size(item)
            yield Scored(data.dataset.truth(item), detections, height, width)


def draw(data: Data, items: Sequence[Item], folder: Path, pictures: Path) -> None:
    """Write `<image>.png` for some images, with objects on the left and detections on the right."""
    names = ("object",) if data.agnostic else data.dataset.classes
    by_name = {item.name: item for item in items}
    for scored in scored_images(data, items, folder):
        name = scored.detections.image
        truth = data.dataset.objects(by_name[name])
        truth = replace(truth, classes=0 * truth.classes) if data.agnostic else truth
        picture = picture_of(data.dataset.image(by_name[name]), replace(scored, truth=truth), names)
        save(picture, pictures / f"{name.replace('/', '-')}.png", description="objects on the left, detections on the right")
    notice(f"pictures of {len(items)} images are in {pictures}")
