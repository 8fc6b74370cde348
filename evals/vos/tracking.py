"""Following objects through videos: features of a frame, labels from its context, and label maps at the video's own size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
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
        names, shape = list(sequences), self.size.shape(*native)
        context: Context | None = None
        pin = self.device.type == "cuda"
        images = steps(self.videos, list(sequences.values()), shape, self.resample, self.workers, pin)
        for number in range(max(map(len, sequences.values()))):
            active = [name for name in names if number < len(sequences[name])]
            items = [sequences[name][number] for name in active]
            with run.stage("features"), torch.inference_mode(), measured("features", self.device, images=len(items)):
                features = self.features(next(images), items)
            if context is None:
                masks = [self.videos.label(item) for item in items]
                grids = [on_grid(mask, (features.shape[1], features.shape[2])) for mask in masks]
                context = Context(features, one_hot(grids, 1 + max(objects)).to(self.device), self.context)
                for name, item, mask, grid in zip(active, items, masks, grids, strict=True):
                    lost = np.setdiff1d(np.unique(mask), np.unique(grid))
                    yield Tracking(name, number, item, mask, tuple(lost[lost > 0].tolist()))
                continue
            with run.stage("propagation"), torch.inference_mode():
                soft_labels = propagate(features, *context.frames(len(active)), self.window, AT_ONCE[self.device.type])
                context.push(features, soft_labels)
                maps = [
                    label_map(soft[..., : 1 + count], shape, native[::-1], self.upsample)
                    for soft, count in zip(soft_labels, objects, strict=False)
                ]
            for name, item, prediction in zip(active, items, maps, strict=True):
                yield Tracking(name, number, item, prediction)

    def features(self, images: Float[Tensor, "b 3 h w"], items: Sequence[Item]) -> Float[Tensor, "b gh gw d"]:
        """Return the features of frames, scaled to length 1. Raises UserError where they are not finite."""
        normalisation = statistics(Normalisation(self.backbone.mean, self.backbone.std), self.colour)
        with autocast(self.device, self.precision):
            grids = self.backbone(normalisation(images.to(self.device, non_blocking=True)))
        features = F.normalize(grids.movedim(1, -1).to(DTYPES[self.precision]).float(), dim=-1)
        if not features.isfinite().all():
            broken = items[int((~features.isfinite()).flatten(1).any(1).nonzero()[0])]
            raise UserError(f"the features of {broken.name} are not finite numbers; check the weights, or use --precision fp32")
        return features


def on_grid(mask: UInt8[np.ndarray, "h w"], grid: tuple[int, int]) -> UInt8[np.ndarray, "gh gw"]:
    """Return the id under the centre of every patch."""
    return np.array(Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.NEAREST))


def one_hot(grids: Sequence[UInt8[np.ndarray, "gh gw"]], channels: int) -> Float[Tensor, "b gh gw c"]:
    """Return one channel for each id, background first."""
    return F.one_hot(torch.from_numpy(np.stack(grids)).long(), channels).float()


def label_map(
    soft: Float[Tensor, "gh gw c"], shape: tuple[int, int], native: tuple[int, int], upsample: str
) -> UInt8[np.ndarray, "h w"]:
    """Return the ids of the pixels of a frame of size `native` (height, width), which the backbone saw at `shape`.

    soft: one channel for each id. upsample "bilinear": channels are upsampled to `shape` and stretched to 0..1, the greatest is
    taken at each pixel, and ids are resized to `native` by nearest neighbours. "nearest": channels are upsampled to `native` by
    nearest neighbours, and one that is constant over the frame becomes 0. Ties go to the lower id.
    """
    channels = soft.permute(2, 0, 1)[None].contiguous()  # a channels-last layout would be slow
    if upsample == "nearest":
        large = F.interpolate(channels, native, mode="nearest")
    else:
        large = F.interpolate(channels, shape, mode="bilinear", align_corners=False)
    ids = stretched(large[0], 0.0 if upsample == "nearest" else torch.inf).max(0).indices.to(torch.uint8).cpu().numpy()
    if upsample == "nearest":
        return ids
    return np.array(Image.fromarray(ids).resize(native[::-1], Image.Resampling.NEAREST))
