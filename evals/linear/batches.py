"""Training batches of the published linear probes: features and label maps of several subsets, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.datasets.dataset import Item
from densebench.datasets.io.loader import Samples, checked, make_loader
from densebench.evaluation.labels import LabelSpace, classes_shown
from densebench.evaluation.whole_images import truth_map
from densebench.features.extract import DTYPES, Features, Normalisation, autocast
from densebench.features.pipeline import BATCH
from densebench.features.views import CropView, View, named_generator
from densebench.numerics.sgd_layers import Heads
from densebench.processes import consecutive, resolve_device, resolve_workers, world_size

HELD_LABELS = 2**30  # bytes of label maps that are kept between epochs, without augmentation; more are read again


@runtime_checkable
class Options(Protocol):
    """The options that batches follow from. The protocol declares and documents them."""

    @property
    def train_batch(self) -> int: ...
    @property
    def mask_size(self) -> int | None: ...
    @property
    def mask_resample(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def batch_size(self) -> int | None: ...
    @property
    def workers(self) -> int | None: ...


@dataclass(frozen=True)
class Source:
    """Training batches of several subsets of equal size, each with its seed: features and label maps, epoch by epoch.

    cached: features of images without augmentation; None where every image is cropped at random in every epoch. held: label
    maps of these images that were read, by name.
    """

    options: Options
    backbone: Backbone
    space: LabelSpace
    view: View
    subsets: Sequence[Sequence[Item]]
    seeds: Sequence[int]
    cached: Features | None
    held: dict[str, UInt8[Tensor, "h w"]] = field(default_factory=dict)

    def __call__(
        self, epoch: int, heads: Heads
    ) -> Iterator[tuple[Float[Tensor, "p b gh gw d"], UInt8[Tensor, "p b rows columns"]]]:
        """Yield the batches of an epoch, b images of each of p subsets, in orders that follow from the seeds and the epoch.

        Of several processes each gets its share of every batch, which may be none.
        """
        orders = [_order(len(items), seed, epoch) for items, seed in zip(self.subsets, self.seeds, strict=True)]
        size, count = self.options.train_batch, len(self.subsets[0])
        steps = [[order[start : start + size] for order in orders] for start in range(0, count, size)]
        steps = [[chosen[self.share(heads, len(chosen))] for chosen in step] for step in steps]
        views = [self.view_of(seed, epoch) for seed in self.seeds]
        wanted = [
            (items[i], view)
            for step in steps
            for items, view, chosen in zip(self.subsets, views, step, strict=True)
            for i in chosen
        ]
        loaded = self.load(wanted)
        for step in steps:
            if not step[0]:
                yield self.nothing(len(step))
                continue
            pairs = [next(loaded) for chosen in step for _ in chosen]
            shape = (len(step), len(step[0]))
            features, labels = (torch.stack(part) for part in zip(*pairs, strict=True))
            yield features.unflatten(0, shape), labels.unflatten(0, shape)

    @property
    def label_size(self) -> int:
        """The side of the label maps that are learned from, px."""
        assert self.view.size is not None
        return self.options.mask_size or self.view.size

    def share(self, heads: Heads, images: int) -> slice:
        """Return which images of a batch this process gets: whole parts of those in which one process adds up its gradients.

        Sums of several processes are then those of one, bit for bit. A batch of fewer parts than processes is divided evenly;
        its sums differ by rounding.
        """
        parts = heads.parts(images, (self.label_size, self.label_size))
        if len(parts) < world_size():
            parts = [slice(number, number + 1) for number in range(images)]
        mine = consecutive(parts)
        return slice(mine[0].start, mine[-1].stop) if mine else slice(0, 0)

    def nothing(self, problems: int) -> tuple[Float[Tensor, "p 0 gh gw d"], UInt8[Tensor, "p 0 rows columns"]]:
        """Return a batch without images."""
        assert self.view.size is not None
        side = self.view.size // self.backbone.stride
        labels = torch.empty(problems, 0, self.label_size, self.label_size, dtype=torch.uint8)
        return torch.empty(problems, 0, side, side, self.backbone.dim), labels

    def view_of(self, seed: int, epoch: int) -> View | CropView:
        """Return the view of the training images of one seed in an epoch."""
        assert self.view.size is not None
        return self.view if self.cached is not None else CropView(self.view.size, f"{seed} {epoch}")

    def label(self, item: Item, view: View | CropView) -> UInt8[Tensor, "h w"]:
        """Return the label map of an image without augmentation; it is kept as long as HELD_LABELS allows."""
        if item.name in self.held:
            return self.held[item.name]
        label = label_of(self.options, self.space, item, view)
        if (len(self.held) + 1) * label.numel() <= HELD_LABELS:
            self.held[item.name] = label
        return label

    def load(
        self, wanted: Sequence[tuple[Item, View | CropView]]
    ) -> Iterator[tuple[Float[Tensor, "gh gw d"], UInt8[Tensor, "h w"]]]:
        """Yield features and label maps in the order of `wanted`, from the cache or by the backbone."""
        options = self.options
        if not wanted:
            return
        if self.cached is not None:
            for item, view in wanted:
                yield self.cached[item], self.label(item, view)
            return
        device = resolve_device(options.device)
        backbone, normalise = self.backbone.to(device), Normalisation(self.backbone.mean, self.backbone.std)
        workers = resolve_workers(options.workers, len(wanted))
        crops, together = _Crops(options, self.space, wanted), options.batch_size or BATCH
        assert self.view.size is not None
        bytes_of_one = 3 * torch.float32.itemsize * self.view.size**2 + self.label_size**2
        loader = make_loader(
            crops, _collate, workers, device.type == "cuda", batch_bytes=together * bytes_of_one, batch_size=together
        )
        for images, labels in checked(loader):
            images = images.to(device, non_blocking=True)
            with torch.inference_mode(), autocast(device, options.precision):
                grids = backbone.of_pixels(images, normalise).movedim(1, -1).to(DTYPES[options.precision])
            for grid, label in zip(grids.float(), labels, strict=True):
                yield grid.clone(), label


def label_of(options: Options, space: LabelSpace, item: Item, view: View | CropView) -> UInt8[Tensor, "h w"]:
    """Return the label map that a training image is compared with."""
    return truth_map(space, view, item, options.mask_size, options.mask_resample)


def classes_read(space: LabelSpace, items: Sequence[Item]) -> None:
    """Read the label maps of some images: the sample of the stage that reads them all."""
    classes_shown(space, items)


class _Crops(Samples):
    """Images and label maps under random views, decoded in worker processes."""

    def __init__(self, options: Options, space: LabelSpace, wanted: Sequence[tuple[Item, View | CropView]]) -> None:
        self.options, self.space, self.wanted = options, space, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def sample(self, key: int) -> tuple[Tensor, UInt8[Tensor, "h w"]]:
        """Return a view and its label map."""
        item, view = self.wanted[key]
        dataset = self.space.dataset
        image = view.image(dataset.image(item), dataset.image_digest(item))
        return image, label_of(self.options, self.space, item, view)


def _collate(batch: list[Any]) -> tuple[Tensor, list[Tensor]]:
    """Return views as one batch, and their label maps."""
    images, labels = zip(*batch, strict=True)
    return torch.stack(images), list(labels)


def _order(count: int, seed: int, epoch: int) -> list[int]:
    return named_generator(f"order {seed} {epoch}").permutation(count).tolist()
