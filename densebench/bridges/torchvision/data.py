"""Our data sets in batches for a detector. The random draws of a sample follow from the seed and its number in the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densebench.bridges.torchvision.augmentation import Sample, augment, boxes_of, fitted, masks_of, resize
from densebench.bridges.torchvision.masks import decode
from densebench.bridges.torchvision.options import Data, Options, iterations_of
from densebench.datasets.dataset import Item
from densebench.datasets.io.loader import Batches, Samples, make_loader
from densebench.errors import UserError
from densebench.numerics.seeds import permutation, seed_of
from densebench.processes import World

Truth = dict[str, Tensor]
Key = tuple[int, int]  # number in the run, index of the training image
SETTLING = 200  # most samples over which the statistics of batch norms are recomputed
OBJECTS = 8  # masks of an image, about as many as COCO's have on average: for an estimate of the memory


def training_sample(
    data: Data, options: Options, item: Item, random: np.random.Generator, masks: bool = True
) -> tuple[Tensor, Truth]:
    """Return an augmented image, 0..1, and its truth as torchvision's detectors take them, with classes numbered from 1.

    Groups (crowds) are left out. masks: whether the truth includes masks, for Mask R-CNN.
    """
    objects, image = data.dataset.objects(item), data.dataset.image(item)
    single = np.flatnonzero(~objects.crowd)
    sample = augment(Sample.of(image, objects.boxes[single].astype(float)), options, random)
    truth: Truth = {}
    if masks and options.model == "mask-rcnn":
        width, height = image.size
        known = [objects.masks[index] for index in single]
        shown = masks_of(sample, lambda indices: decode([known[index] for index in indices], height, width, item.name))
        if options.augmentation == "lsj":
            inside = shown.any(axis=(1, 2))
            shown = shown[inside]
            sample = Sample(sample.pixels, boxes_of(shown), sample.objects[inside], sample.rows, sample.columns)
        truth["masks"] = torch.from_numpy(np.ascontiguousarray(shown))
    classes = np.zeros(len(sample.objects)) if data.agnostic else objects.classes[single][sample.objects]
    truth["boxes"] = torch.from_numpy(sample.boxes.reshape(-1, 4)).float()
    truth["labels"] = torch.from_numpy(classes).long() + 1
    return pixels(sample.pixels), truth


def pixels(image: np.ndarray) -> Tensor:
    """Return an image `[h w 3]` of bytes as a float tensor `[3 h w]`, 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class Training(Samples):
    """Augmented training samples; a key is (number in the run, index of the training image)."""

    def __init__(self, data: Data, options: Options, masks: bool = True) -> None:
        self.data, self.options, self.masks = data, options, masks

    def sample(self, key: Key) -> tuple[int, Tensor, Truth]:
        """Return the number in the run, the image and its truth."""
        serial, index = key
        random = np.random.Generator(np.random.PCG64(seed_of(self.options.train_seed, "sample", serial)))
        return serial, *training_sample(self.data, self.options, self.data.train[index], random, self.masks)


def scoring_sample(data: Data, options: Options, item: Item) -> tuple[Tensor, tuple[int, int]]:
    """Return an image, 0..1, resized to the scale of training, and its original height and width."""
    sample = Sample.of(data.dataset.image(item), np.zeros((0, 4)))
    return pixels(resize(sample, *fitted(*sample.size, options.short_side, options.longest)).pixels), sample.size


class Scoring(Samples):
    """Images to score, by index."""

    def __init__(self, data: Data, options: Options) -> None:
        self.data, self.options = data, options

    def sample(self, key: int) -> tuple[int, Tensor, tuple[int, int]]:
        """Return the index, the image and its original size."""
        return key, *scoring_sample(self.data, self.options, self.data.val[key])


def keys(images: int, options: Options, world: World, start: int) -> Iterator[list[Key]]:
    """Yield the keys of each of this process's forward passes, from step `start` on.

    Each epoch has another order, which follows from the seed and the epoch; a step may span two epochs.
    """
    share = options.train_batch // world.size
    for step in range(start, iterations_of(options, images)):
        first = step * options.train_batch + world.rank * share
        for begin in range(first, first + share, options.at_once):
            yield _together(images, options, begin)


def settling_keys(images: int, options: Options) -> Iterator[list[Key]]:
    """Yield the keys of the forward passes for the statistics of batch norms, the same in every process.

    Their numbers are negative, so that no sample of training has the same random draws.
    """
    passes = -(-min(SETTLING, images) // options.at_once)
    for number in range(passes):
        yield _together(images, options, -(number + 1) * options.at_once)


def _together(images: int, options: Options, begin: int) -> list[Key]:
    """Return the keys of one forward pass, whose first sample has the number `begin`."""
    serials = range(begin, begin + options.at_once)
    turns = [divmod(serial, images) for serial in serials]
    indices = [int(permutation(images, options.train_seed, turn)[position]) for turn, position in turns]
    return list(zip(serials, indices, strict=True))


def check_batch(options: Options, processes: int) -> None:
    """Raise UserError where the batch cannot be divided among processes and forward passes."""
    if options.train_batch % (processes * options.at_once):
        raise UserError(
            f"--train-batch {options.train_batch} cannot be divided among {processes} processes with "
            f"--at-once {options.at_once}; give a multiple of both"
        )


def image_bytes(options: Options, masks: bool = False) -> int:
    """Return the bytes of a sample that is as large as the options allow, with OBJECTS masks."""
    longest = options.short_side if options.augmentation == "lsj" else max(options.short_side, options.longest)
    shown = OBJECTS if masks and options.model == "mask-rcnn" else 0
    return options.short_side * longest * (3 * torch.float32.itemsize + shown)


def training_batches(data: Data, options: Options, world: World, start: int, workers: int) -> Iterator[Any]:
    """Yield the samples of each forward pass (or the UserError that one met), from step `start` to the last one."""
    batches, pin = Batches(keys(len(data.train), options, world, start)), world.device.type == "cuda"
    most = options.at_once * image_bytes(options, masks=True)
    return iter(make_loader(Training(data, options), list, workers, pin, batch_bytes=most, batch_sampler=batches))


def settling_batches(data: Data, options: Options, workers: int, pin: bool = False) -> Iterator[Any]:
    """Yield the samples of `settling_keys` without masks, or the UserError that one met. pin: as in `make_loader`."""
    batches = Batches(settling_keys(len(data.train), options))
    samples, most = Training(data, options, masks=False), options.at_once * image_bytes(options)
    return iter(make_loader(samples, list, workers, pin, batch_bytes=most, batch_sampler=batches))


def scoring_images(data: Data, options: Options, indices: list[int], workers: int, pin: bool = False) -> Iterator[Any]:
    """Yield the images of some indices one at a time, or the UserError that one met. pin: as in `make_loader`.

    They are not batched, since padding an image to the size of another would change its detections.
    """
    samples, batches = Scoring(data, options), [[index] for index in indices]
    return iter(make_loader(samples, list, workers, pin, batch_bytes=image_bytes(options), batch_sampler=batches))
