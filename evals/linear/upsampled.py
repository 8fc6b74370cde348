"""Linear probe on upsampled features: one 1 x 1 convolution at the resolution of the pixels, as papers on upsamplers report it.

- jafar: JAFAR (Couairon et al., 2025). Images and label maps: the short side resized to 448 px, then the middle 448 x 448 (label
  maps by their nearest neighbours). Features of the frozen backbone, after its final norm, are upsampled to 448 x 448; one 1 x 1
  convolution; cross-entropy over labelled pixels; batches of 2, 20 epochs; AdamW 5e-4, weight decay 1e-5; every batch is
  mirrored as a whole with probability 0.5. The cosine of the learning rate was meant to end with the 20 epochs but is stepped
  once a batch, so that it falls to 0 and rises again every 40 steps: `--period 20`, in steps, is what the code does. Scored after
  the last epoch on the cropped label maps: mIoU over the classes that occur, and pixel accuracy.
- naf: NAF's evaluation (2025), the same with a cosine over all steps (`--period none`).
- anyup: AnyUp (Wimmer et al., ICLR 2026) followed JAFAR but steps the cosine once an epoch (README of its repository).

Features are upsampled by `--upsample` (see `load_backbone`), and what is left up to 448 px bilinearly; without it bilinearly
alone.
Nothing at the resolution of pixels is stored: the network's own grids are cached, of each image and of its mirror image, and
upsampled on the fly. Where the upsampler is linear the layer comes first: that gives the same logits, up to rounding.

Departures: images are resized in float32, by the reference on bytes (half a grey level); the upsampler sees the image as its own
file asks for (NAF's too; JAFAR's sees it normalised like the network). On VOC both learn from train, 1464 images, not trainaug.

Numbers to reach (mIoU, DINOv2 ViT-S/14; VOC, ADE20K, Cityscapes): bilinear 80.70, 39.23, 59.37; JAFAR 84.44, 40.49, 61.47
(README of JAFAR).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.console import notice, progress
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.io.loader import Samples, checked, make_loader
from densebench.errors import UserError
from densebench.evals.linear.pixel_layer import Example, PixelLayer, Upsampling, cosine_factor
from densebench.evaluation.counts import Counts
from densebench.evaluation.labels import LabelSpace, classes_shown
from densebench.evaluation.option_groups import Supervised
from densebench.evaluation.pictures import PANEL, colour, colours_of, legend
from densebench.evaluation.protocol import Run
from densebench.evaluation.stages import Stage
from densebench.features.extract import Extraction, Features
from densebench.features.views import CentreCropView, named_generator
from densebench.files.atomic import digest
from densebench.files.store import Store
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.numerics.segmentation import confusion_matrices, counted_pairs
from densebench.options import axis, setting
from densebench.pictures.canvas import row, save
from densebench.processes import (
    add_all_parts,
    collected,
    consecutive,
    dealt,
    from_main,
    rank,
    resolve_device,
    resolve_workers,
    total,
)
from densebench.results.score import Point, Score

IGNORED = 255


@dataclass(frozen=True)
class Middle(CentreCropView):
    """The centre square of an image and of its label map, perhaps mirrored."""

    mirrored: bool = False

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the pixels of the image: part of the key of cached features."""
        return {"crop": "centre", **asdict(self)}

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 size size"]:
        """Return the view of an RGB image, float32 in 0..1."""
        pixels = super().image(image, digest)
        return pixels.flip(2) if self.mirrored else pixels

    def label(self, label: UInt8[np.ndarray, "h w"]) -> UInt8[Tensor, "size size"]:
        """Return the view of a label map, each pixel the label under its centre."""
        height, width = label.shape
        resized = self.resized(width, height)
        left, top = self.corner(*resized)
        pixels = F.interpolate(torch.from_numpy(label.copy())[None, None], resized[::-1], mode="nearest-exact")[0, 0]
        pixels = pixels[top : top + self.size, left : left + self.size]
        return pixels.flip(1).contiguous() if self.mirrored else pixels.contiguous()


@dataclass(frozen=True)
class LinearUpsampled(Supervised):
    """Options of the probe on upsampled features; the head of this file says what the presets are."""

    draws_later: ClassVar[bool] = False
    version: ClassVar[int] = 1
    published_as: ClassVar[Mapping[str, str]] = {"jafar": "linear-upsampled-jafar"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "jafar": {"other_class": "class"},
        "naf": {"other_class": "class", "period": None},
        "anyup": {"other_class": "class", "stepped": "epoch"},
    }

    image_size: int = setting(
        448, "side of the square in the middle of images, px; a multiple of the stride", minimum=1, maximum=4096
    )
    learning_rate: float = setting(5e-4, "learning rate of AdamW", minimum=0)
    weight_decay: float = setting(1e-5, "weight decay of AdamW", minimum=0)
    epochs: int = setting(20, "passes over the training images", minimum=1, maximum=1_000_000)
    train_batch: int = setting(2, "images a step", minimum=1, maximum=65_536)
    period: int | None = setting(
        20, "steps after which the cosine of the learning rate is at 0, to rise again; none: all of them", minimum=1
    )
    stepped: str = setting("batch", "after what the cosine makes a step", choices=("batch", "epoch"))
    mirror: float = setting(0.5, "probability that a training batch is mirrored", minimum=0, maximum=1)
    seeds: int = axis(1, "number of seeds, of initial weights, order and mirroring", minimum=1, maximum=10_000)

    def splits(self, dataset: Dataset) -> tuple[str, str]:
        """Return the training split, `train` where there is one, and the scored split."""
        usual = "train" if "train" in dataset.splits else dataset.train_split
        return self.train_split or usual, self.eval_split or dataset.val_split

    def points(self, dataset: Dataset) -> list[Point]:
        """Return a point for each seed."""
        return [(("seed", seed),) for seed in range(self.seeds)]

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """Return by what the learning rate is multiplied in a batch of an epoch, both counted from 0, of so many batches."""
        if self.stepped == "epoch":
            return cosine_factor(epoch, self.period or self.epochs)
        return cosine_factor(epoch * batches + batch, self.period or self.epochs * batches)

    def views(self) -> tuple[Middle, Middle]:
        """Return the view of images, and that of their mirror images."""
        plain = Middle(self.image_size, self.image_size, "bilinear")
        return plain, replace(plain, mirrored=True)

    def extractions(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Extraction]:
        """Return the features of the network for the training images, their mirror images and the scored images."""
        backbone.check_size(self.image_size, self.image_size)
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        plain, mirrored = self.views()
        wanted = [(train, plain), *([(train, mirrored)] if self.mirror else []), (val, plain)]
        return [Extraction(backbone.coarse, dataset, items, view, precision=self.precision) for items, view in wanted]

    def stages(self, backbone: Backbone, dataset: Dataset, run: Run) -> list[Stage]:
        """Return the labels, the features of the network, and the training of each seed."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        space, wanted = LabelSpace(dataset, "drop", self.other_class), self.extractions(backbone, dataset, run)
        names = ["features of train", *(["features of train, mirrored"] if self.mirror else []), "features of the scored split"]
        return [
            Stage("labels", [*train, *val], sample=partial(_read, space)),
            *(Stage(name, each.items, each) for name, each in zip(names, wanted, strict=True)),
            Stage("training", train, passes=self.epochs * self.seeds),
            Stage("scoring", val),
        ]

    def run(self, backbone: Backbone, dataset: Dataset, run: Run) -> Iterator[Score]:
        """Read all labels (they fail early), extract the network's features, then train and score seed by seed."""
        train, val = (dataset.part(split, run.limit) for split in self.splits(dataset))
        space, wanted = LabelSpace(dataset, "drop", self.other_class), self.extractions(backbone, dataset, run)
        with run.stage("labels"):
            shown = classes_shown(space, train)
            classes_shown(space, val, label="labels to score")
        if not shown.any():
            raise UserError(f"no pixel of the {len(train)} training images has a class; check their label maps")
        with run.stage("features"):
            features = [self.extracted(each) for each in wanted]
        device = resolve_device(self.device)
        work = Work(self, space, Upsampling(backbone.to(device), self.image_size), train, features, device)
        for point in (point for point in self.points(dataset) if point not in run.known):
            seed = int(dict(point)["seed"])
            with run.stage("training"), run.workspace("upsampled") as folder:
                layer, losses = work.trained(seed, folder)
            with run.stage("scoring"):
                counts = work.counts(layer, val)
            details = {
                "images": len(train),
                "absent": space.absent(np.any(shown, axis=0)),
                "losses": [round(x, 4) for x in losses],
            }
            absent = cast("Any", self.absent)
            miou, *others = counts.scores([item.name for item in val], 0, space.names, absent, point, details)
            if run.pictures is not None and self.visualise and seed == 0:
                work.draw(layer, limited(val, self.visualise), run.pictures)
            yield from [*others, miou]


@dataclass(frozen=True)
class Work:
    """A data set with the features of its images, ready to be learned from. features: as `extractions` lists them."""

    options: LinearUpsampled
    space: LabelSpace
    upsampling: Upsampling
    train: Sequence[Item]
    features: Sequence[Features]
    device: torch.device

    def trained(self, seed: int, folder: Path) -> tuple[PixelLayer, list[float]]:
        """Return the layer after the last epoch, and the mean loss of every epoch. A killed run is resumed."""
        options, width = self.options, self.upsampling.backbone.dim
        layer = PixelLayer(
            self.upsampling, width, self.space.classes, rate=options.learning_rate, weight_decay=options.weight_decay,
            seed=seed, device=self.device,
        )  # fmt: skip
        name = digest([[item.name for item in self.train], seed], 16)
        store = Store(folder, {"protocol": "linear"})
        done, losses, state = from_main(partial(_saved, store, name, options.epochs))
        if done:
            layer.restore(state)
        with progress("training", options.epochs - done, "epochs") as bar:
            for epoch in range(done, options.epochs):
                copies = {key: HostCopy(value) for key, value in self._epoch(layer, seed, epoch).items()}
                values = {key: copy.value() for key, copy in copies.items()}
                losses = torch.cat([losses, values.pop("loss")[None]])
                if rank() == 0:
                    store.add({f"{name} {epoch + 1} {key}": value for key, value in {**values, "losses": losses}.items()})
                bar.advance()
        if not bool(losses.isfinite().all()) or not bool(layer.weights.isfinite().all()):
            raise UserError(f"the loss diverged at --learning-rate {options.learning_rate:g}; give a smaller one")
        return layer, losses.tolist()

    def _epoch(self, layer: PixelLayer, seed: int, epoch: int) -> dict[str, Tensor]:
        """Make the steps of an epoch; return the state after it, and the mean loss."""
        options, count = self.options, len(self.train)
        order = named_generator(f"order {seed} {epoch}").permutation(count).tolist()
        batches = [order[start : start + options.train_batch] for start in range(0, count, options.train_batch)]
        mirrored = (named_generator(f"mirror {seed} {epoch}").random(len(batches)) < options.mirror).tolist()
        wanted = [(self.train[i], flip) for batch, flip in zip(batches, mirrored, strict=True) for i in consecutive(batch)]
        coming, losses = self._examples(wanted), []
        for number, batch in enumerate(batches):
            examples = [next(coming) for _ in consecutive(batch)]
            labelled = sum(int((label != IGNORED).sum()) for _, _, label in examples)
            factor = options.factor(epoch, number, len(batches))
            pixels = total(on_device(torch.tensor(labelled), self.device))
            moved = [tuple(None if each is None else on_device(each, self.device) for each in example) for example in examples]
            losses.append(layer.step(cast("Any", moved), pixels, factor, add_all_parts))
        return {**layer.state(), "loss": torch.stack(losses).mean()}

    def _examples(self, wanted: Sequence[tuple[Item, bool]]) -> Iterator[Example]:
        """Yield the features, pixels and label map of images, mirrored or not, decoded ahead in worker processes."""
        samples = _Samples(self.space, self.options.views(), wanted, self.upsampling.needs_pixels)
        workers = resolve_workers(self.options.workers, len(wanted), self.device)
        side = self.options.image_size
        loader = make_loader(samples, _first, workers, False, batch_bytes=(12 * samples.pixels + 1) * side**2, batch_size=1)
        for (item, flip), (pixels, label) in zip(wanted, checked(loader), strict=True):
            features = self.features[1 if flip else 0][item]
            yield features, pixels, label

    def label_maps(self, layer: PixelLayer, items: Sequence[Item]) -> Iterator[tuple[Item, Tensor, Tensor]]:
        """Yield scored images with their truth and their label map, both on the device."""
        samples = _Samples(self.space, self.options.views(), [(item, False) for item in items], self.upsampling.needs_pixels)
        for index, item in enumerate(items):
            pixels, truth = samples.sample(index)
            moved = None if pixels is None else on_device(pixels, self.device)
            features = on_device(self.features[-1][item], self.device)
            yield item, on_device(truth, self.device), layer.label_map(features, moved)

    def counts(self, layer: PixelLayer, items: Sequence[Item]) -> Counts:
        """Return the confusion matrices of the scored images. Several processes divide the images."""
        counts, mine, counted = Counts(1, self.space.classes), dealt(items), []
        pairs = (
            (item, HostCopy(counted_pairs(found[None], truth, self.space.classes)))
            for item, truth, found in self.label_maps(layer, mine)
        )
        with progress("scoring", len(mine)) as bar:
            for item, copy in one_late(pairs, self.device):
                confusion = confusion_matrices(copy.value(), self.space.classes)
                counted.append((item.name, counts.add(item.name, confusion)))
                bar.advance()
        for name, stored in collected(counted):
            counts.restore(name, stored)
        return counts

    def draw(self, layer: PixelLayer, items: Sequence[Item], folder: Path) -> None:
        """Write `<image>.png` (image | truth | prediction) for a few images."""
        dataset, palette = self.space.dataset, colours_of(self.space)
        for item, truth, found in self.label_maps(layer, items):
            view = self.options.views()[0]
            pixels = (255 * view.image(dataset.image(item), dataset.image_digest(item))).round().to(torch.uint8)
            parts = [Image.fromarray(pixels.movedim(0, -1).numpy()), *(colour(each.cpu(), palette) for each in (truth, found))]
            save(row(parts, gap=4), folder / f"{item.name.replace('/', '-')}.png", description=PANEL, legend=legend(dataset))
        notice(f"pictures of {len(items)} images are in {folder}")


class _Samples(Samples):
    """Images, where they are needed, and label maps of items, mirrored or not."""

    def __init__(
        self, space: LabelSpace, views: tuple[Middle, Middle], wanted: Sequence[tuple[Item, bool]], pixels: bool
    ) -> None:
        self.space, self.views, self.wanted, self.pixels = space, views, wanted, pixels

    def __len__(self) -> int:
        return len(self.wanted)

    def sample(self, key: int) -> tuple[Float[Tensor, "3 h w"] | None, UInt8[Tensor, "h w"]]:
        """Return the image and the label map."""
        item, mirrored = self.wanted[key]
        view, dataset = self.views[int(mirrored)], self.space.dataset
        image = view.image(dataset.image(item), dataset.image_digest(item)) if self.pixels else None
        return image, view.label(self.space.read_truth(item))


def _first(batch: list[Any]) -> Any:
    return batch[0]


def _read(space: LabelSpace, items: Sequence[Item]) -> None:
    classes_shown(space, items)


def _saved(store: Store, name: str, epochs: int) -> tuple[int, Tensor, dict[str, Tensor]]:
    """Return how many epochs an earlier run has trained, their losses and the layer's state."""
    done = next((epoch for epoch in range(epochs, 0, -1) if f"{name} {epoch} losses" in store), 0)
    if not done:
        return 0, torch.zeros(0), {}
    parts = ("weights", "step", "exp_avg", "exp_avg_sq")
    return done, store[f"{name} {done} losses"].clone(), {part: store[f"{name} {done} {part}"].clone() for part in parts}
