"""Following objects through videos: features of a frame, labels from its context, and label maps at the video's own size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from densebench.backbones.backbone import Backbone
from densebench.costs import measured
from densebench.datasets.dataset import Item
from densebench.datasets.videos import Videos
from densebench.errors import UserError
from densebench.evals.vos.frames import FrameSize, statistics, steps
from densebench.evaluation.protocol import Run
from densebench.features.extract import DTYPES, Normalisation, autocast
from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy, one_late
from densebench.numerics.propagation import Window, propagate, stretched

AT_ONCE = {"cpu": 2**21, "cuda": 2**27}  # affinities computed at once: bounds memory and changes no result


@dataclass(frozen=True)
class Tracking:
    """The label map of one frame, with its sequence and its number there, from 0.

    vanished: for a first frame, the ids that lie under no patch centre.
    """

    sequence: str
    number: int
    item: Item
    prediction: UInt8[np.ndarray, "h w"]
    vanished: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Frame:
    """One frame of several sequences whose work is queued on the device.

    finite: whether the features of each sequence are finite. ids: the predicted maps, unused for a first frame. known: the given
    masks of a first frame, else empty.
    """

    number: int
    names: list[str]
    items: list[Item]
    finite: HostCopy
    ids: HostCopy
    known: list[UInt8[np.ndarray, "h w"]]
    vanished: list[tuple[int, ...]]


class Context:
    """Features and labels of the first frame and the last few frames, for several sequences at once; memory is constant."""

    def __init__(self, features: Float[Tensor, "b h w d"], labels: Float[Tensor, "b h w c"], last: int) -> None:
        self.last, self.pushed = last, 0
        self._keys = features.new_empty(len(features), 1 + last, *features.shape[1:])
        self._labels = labels.new_empty(len(labels), 1 + last, *labels.shape[1:])
        self._keys[:, 0], self._labels[:, 0] = features, labels

    def frames(self, sequences: int) -> tuple[Float[Tensor, "b t h w d"], Float[Tensor, "b t h w c"]]:
        """Return features and labels of the t context frames of the first `sequences` sequences."""
        filled = 1 + min(self.pushed, self.last)
        return self._keys[:sequences, :filled], self._labels[:sequences, :filled]

    def push(self, features: Float[Tensor, "b h w d"], labels: Float[Tensor, "b h w c"]) -> None:
        """Add a frame; it replaces the oldest one, but never the first frame."""
        if self.last:
            slot = 1 + self.pushed % self.last
            self._keys[: len(features), slot], self._labels[: len(labels), slot] = features, labels
            self.pushed += 1


@dataclass(frozen=True)
class Tracker:
    """Propagates labels through sequences; up to `batch_size` sequences with frames of the same size are processed together."""

    backbone: Backbone
    videos: Videos
    device: torch.device
    size: FrameSize
    resample: str
    colour: str
    precision: str
    window: Window
    context: int
    upsample: str
    batch_size: int
    workers: int

    def follow(self, sequences: dict[str, list[Item]], objects: dict[str, int], run: Run) -> Iterator[Tracking]:
        """Yield the label maps of all frames.

        Raises UserError where the backbone cannot take a size, or features are not finite.
        """
        sizes = {name: self.videos.image_size(frames[0]) for name, frames in sequences.items()}
        for size in dict.fromkeys(sizes.values()):
            self.backbone.check_size(*self.size.shape(*size))
        for size in dict.fromkeys(sizes.values()):
            names = sorted((name for name in sequences if sizes[name] == size), key=lambda name: -len(sequences[name]))
            for start in range(0, len(names), self.batch_size):
                some = names[start : start + self.batch_size]
                yield from self._together({name: sequences[name] for name in some}, [objects[name] for name in some], size, run)

    def _together(
        self, sequences: dict[str, list[Item]], objects: Sequence[int], native: tuple[int, int], run: Run
    ) -> Iterator[Tracking]:
        """Yield the label maps of sequences of one size, longest first, frame by frame."""
        for frame in one_late(self._queued(sequences, objects, native, run), self.device):
            with run.stage("propagation"):
                check_finite(frame.finite.value(), frame.items)
                known = frame.known or [resized_ids(ids, native, self.upsample) for ids in frame.ids.value().numpy()]
            for name, item, prediction, vanished in zip(frame.names, frame.items, known, frame.vanished, strict=True):
                yield Tracking(name, frame.number, item, prediction, vanished)

    def _queued(
        self, sequences: dict[str, list[Item]], objects: Sequence[int], native: tuple[int, int], run: Run
    ) -> Iterator[_Frame]:
        """Queue the work of each frame, and yield it while its results are on their way to the host."""
        names, shape = list(sequences), self.size.shape(*native)
        context: Context | None = None
        pin = self.device.type == "cuda"
        images = steps(self.videos, list(sequences.values()), shape, self.resample, self.workers, pin)
        for number in range(max(map(len, sequences.values()))):
            active = [name for name in names if number < len(sequences[name])]
            items = [sequences[name][number] for name in active]
            with run.stage("features"), torch.inference_mode(), measured("features", self.device, images=len(items)):
                features = self.features(next(images))
                finite = HostCopy(features.isfinite().flatten(1).all(1))
            if context is None:
                masks = [self.videos.label(item) for item in items]
                grids = [on_grid(mask, (features.shape[1], features.shape[2])) for mask in masks]
                labels = on_device(one_hot(grids, 1 + max(objects)), self.device)
                context = Context(features, labels, self.context)
                lost = [np.setdiff1d(np.unique(mask), np.unique(grid)) for mask, grid in zip(masks, grids, strict=True)]
                vanished = [tuple(ids[ids > 0].tolist()) for ids in lost]
                yield _Frame(number, active, items, finite, finite, masks, vanished)
                continue
            with run.stage("propagation"), torch.inference_mode():
                soft_labels = propagate(features, *context.frames(len(active)), self.window, AT_ONCE[self.device.type])
                context.push(features, soft_labels)
                size = native[::-1] if self.upsample == "nearest" else shape
                channels = [soft[..., : 1 + count] for soft, count in zip(soft_labels, objects, strict=False)]
                ids = HostCopy(torch.stack([best_ids(soft, size, self.upsample) for soft in channels]))
            yield _Frame(number, active, items, finite, ids, [], [()] * len(active))

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b gh gw d"]:
        """Return the features of frames, scaled to length 1."""
        normalisation = statistics(Normalisation(self.backbone.mean, self.backbone.std), self.colour)
        with autocast(self.device, self.precision):
            grids = self.backbone.of_pixels(images.to(self.device, non_blocking=True), normalisation)
        return F.normalize(grids.movedim(1, -1).to(DTYPES[self.precision]).float(), dim=-1)


def check_finite(finite: Bool[Tensor, "b"], items: Sequence[Item]) -> None:
    """Raise UserError with the name of the first frame whose features are not finite."""
    for item, is_finite in zip(items, finite.tolist(), strict=True):
        if not is_finite:
            raise UserError(f"the features of {item.name} are not finite numbers; check the weights, or use --precision fp32")


def on_grid(mask: UInt8[np.ndarray, "h w"], grid: tuple[int, int]) -> UInt8[np.ndarray, "gh gw"]:
    """Return the id under the centre of every patch."""
    return np.array(Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.NEAREST))


def one_hot(grids: Sequence[UInt8[np.ndarray, "gh gw"]], channels: int) -> Float[Tensor, "b gh gw c"]:
    """Return one channel for each id, background first."""
    return F.one_hot(torch.from_numpy(np.stack(grids)).long(), channels).float()


def best_ids(soft: Float[Tensor, "gh gw c"], size: tuple[int, int], upsample: str) -> UInt8[Tensor, "h w"]:
    """Return the id at each pixel of a frame of `size` (height, width). soft: one channel for each id.

    Channels are upsampled and stretched to 0..1, and the greatest is taken; a tie goes to the lower id. With upsample "nearest",
    a channel that is constant over the frame becomes 0.
    """
    channels = soft.permute(2, 0, 1)[None].contiguous()  # a channels-last layout would be slow
    if upsample == "nearest":
        large = F.interpolate(channels, size, mode="nearest")
    else:
        large = F.interpolate(channels, size, mode="bilinear", align_corners=False)
    return stretched(large[0], 0.0 if upsample == "nearest" else torch.inf).max(0).indices.to(torch.uint8)


def resized_ids(ids: UInt8[np.ndarray, "h w"], native: tuple[int, int], upsample: str) -> UInt8[np.ndarray, "rows columns"]:
    """Return ids at the video's own size (width, height): with "nearest" as they are, else resized by nearest neighbours."""
    if upsample == "nearest":
        return ids
    return np.array(Image.fromarray(ids).resize(native, Image.Resampling.NEAREST))
