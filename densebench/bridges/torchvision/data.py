"""Our data sets in batches for a detector. Every sample's random numbers come from the seed and its number in the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densebench.bridges.torchvision.augmentation import Sample, augment, boxes_of, fitted, masks_of, resize
from densebench.bridges.torchvision.masks import decode
from densebench.bridges.torchvision.recipe import Data, Recipe
from densebench.datasets.dataset import Item
from densebench.datasets.io.loader import Batches, Samples, make_loader
from densebench.distributed import World
from densebench.errors import UserError
from densebench.training.batches import permutation, seed_of

Truth = dict[str, Tensor]
Key = tuple[int, int]  # number in the run, place among the training images
SETTLING = 200  # samples at most that statistics of batch norms are taken of


def training_sample(data: Data, recipe: Recipe, item: Item, random: np.random.Generator) -> tuple[Tensor, Truth]:
    """An image on 0..1 and what it shows, as torchvision's detectors take them: classes count from 1. Groups are left out."""
    objects, image = data.dataset.objects(item), data.dataset.image(item)
    single = np.flatnonzero(~objects.crowd)
    sample = augment(Sample.of(image, objects.boxes[single].astype(float)), recipe, random)
    truth: Truth = {}
    if recipe.masks:
        width, height = image.size
        chosen = [objects.masks[place] for place in single]
        masks = masks_of(sample, lambda own: decode([chosen[place] for place in own], height, width, item.name))
        if recipe.augmentation == "lsj":
            there = masks.any(axis=(1, 2))
            masks = masks[there]
            sample = Sample(sample.pixels, boxes_of(masks), sample.objects[there], sample.rows, sample.columns)
        truth["masks"] = torch.from_numpy(np.ascontiguousarray(masks))
    classes = np.zeros(len(sample.objects)) if data.agnostic else objects.classes[single][sample.objects]
    truth["boxes"] = torch.from_numpy(sample.boxes.reshape(-1, 4)).float()
    truth["labels"] = torch.from_numpy(classes).long() + 1
    return pixels(sample.pixels), truth


def pixels(image: np.ndarray) -> Tensor:
    """An image [h, w, 3] of bytes as [3, h, w] on 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class Training(Samples):
    """Augmented samples by (number in the run, place)."""

    def __init__(self, data: Data, recipe: Recipe) -> None:
        self.data, self.recipe = data, recipe

    def sample(self, key: Key) -> Any:
        """Return the number and the sample."""
        serial, place = key
        random = np.random.Generator(np.random.PCG64(seed_of(self.recipe.seed, "sample", serial)))
        return serial, *training_sample(self.data, self.recipe, self.data.train[place], random)


def scoring_sample(data: Data, recipe: Recipe, item: Item) -> tuple[Tensor, tuple[int, int]]:
    """An image on 0..1, resized as training images are, and its own height and width."""
    sample = Sample.of(data.dataset.image(item), np.zeros((0, 4)))
    return pixels(resize(sample, *fitted(*sample.size, recipe.short, recipe.long)).pixels), sample.size


class Scoring(Samples):
    """Images to look at, by place."""

    def __init__(self, data: Data, recipe: Recipe) -> None:
        self.data, self.recipe = data, recipe

    def sample(self, key: int) -> Any:
        """Return the index, the image and its own size."""
        return key, *scoring_sample(self.data, self.recipe, self.data.val[key])


def keys(images: int, recipe: Recipe, world: World, start: int) -> Iterator[list[Key]]:
    """This process's share of every step from `start` on, as many samples at once as the recipe says.

    Each pass over the images is in an order of its own, which the seed and the pass decide; steps go on from pass to pass.
    """
    own = recipe.batch // world.size
    for step in range(start, recipe.iterations):
        first = step * recipe.batch + world.rank * own
        for begin in range(first, first + own, recipe.at_once):
            yield _together(images, recipe, begin)


def settling_keys(images: int, recipe: Recipe) -> Iterator[list[Key]]:
    """The passes that statistics of batch norms are taken of, the same in every process. Their numbers lie below 0, where no
    step's lie."""
    passes = -(-min(SETTLING, images) // recipe.at_once)
    for number in range(passes):
        yield _together(images, recipe, -(number + 1) * recipe.at_once)


def _together(images: int, recipe: Recipe, begin: int) -> list[Key]:
    """The samples of one pass, from a number on."""
    serials = range(begin, begin + recipe.at_once)
    turns = [divmod(serial, images) for serial in serials]
    places = [int(permutation(images, recipe.seed, turn)[place]) for turn, place in turns]
    return list(zip(serials, places, strict=True))


def check_batch(recipe: Recipe, processes: int) -> None:
    """Raise UserError where the batch cannot be divided among processes and passes."""
    if recipe.batch % (processes * recipe.at_once):
        raise UserError(
            f"--train-batch {recipe.batch} cannot be divided among {processes} processes with --at-once {recipe.at_once}; "
            "give a multiple of both"
        )


def training_batches(data: Data, recipe: Recipe, world: World, start: int, workers: int) -> Iterator[Any]:
    """Samples that go through the detector at once, from step `start` to the last one."""
    pin, lazily = world.device.type == "cuda", Batches(keys(len(data.train), recipe, world, start))
    return iter(make_loader(Training(data, recipe), list, workers, pin, batch_sampler=lazily))


def settling_batches(data: Data, recipe: Recipe, workers: int, pin: bool = False) -> Iterator[Any]:
    """Return the samples of `settling_keys`. pin: in page-locked memory, for a GPU."""
    lazily = Batches(settling_keys(len(data.train), recipe))
    return iter(make_loader(Training(data, recipe), list, workers, pin, batch_sampler=lazily))


def scoring_images(data: Data, recipe: Recipe, places: list[int], workers: int, pin: bool = False) -> Iterator[Any]:
    """Return images one by one: padded to another one's size, an image would be seen differently. pin: in page-locked memory."""
    return iter(make_loader(Scoring(data, recipe), list, workers, pin, batch_sampler=[[place] for place in places]))
