"""Our data sets in MMSegmentation's pipelines. The random draws of a sample follow from the seed and its number in the run."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from mmcv.transforms import Pad, RandomFlip, RandomResize, Resize
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmseg.datasets.transforms import PackSegInputs, PhotoMetricDistortion, RandomCrop
from torch.utils.data import DataLoader, Sampler

from densebench.bridges.mmsegmentation.options import Data, Setup
from densebench.datasets.io.loader import Samples, make_loader
from densebench.errors import UserError
from densebench.processes import World

PIXEL_BYTES = 3 + 8  # of an image, and of its label map
ASPECT = 4  # default ratio of the largest long side to the short side: images fit into 2048 x 512


class Training(Samples):
    """Augmented training images; a key is (number in the run, index in the split)."""

    def __init__(self, data: Data, setup: Setup) -> None:
        self.data, self.seed = data, setup.options.train_seed
        self.metainfo = _metainfo(data)
        crop = (setup.crop, setup.crop)
        self.steps: list[Any] = [
            RandomResize(scale=_scale(setup), ratio_range=(0.5, 2.0), keep_ratio=True),
            RandomCrop(crop_size=crop, cat_max_ratio=0.75),
            RandomFlip(prob=0.5),
            *([PhotoMetricDistortion()] if setup.photometric else []),
            *([Pad(size=crop, pad_val={"img": 0, "seg": 255})] if setup.black else []),
            PackSegInputs(),
        ]

    def sample(self, key: tuple[int, int]) -> Any:
        """Return the augmented image and label map of (number in the run, index in the split)."""
        serial, index = key
        item = self.data.train[index]
        sample = {**_image(self.data, item), "gt_seg_map": self.data.read(item), "seg_fields": ["gt_seg_map"]}
        before = random.getstate(), np.random.get_state()
        seed = _seed("sample", self.seed, serial)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            for step in self.steps:
                sample = step(sample)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
        return sample


def _scale(setup: Setup) -> tuple[int, int]:
    """Return the largest long side and short side in px."""
    return setup.long or ASPECT * setup.scale, setup.scale


class Scoring(Samples):
    """Images to score, resized to a short side of `scale` px, with label maps of the original size."""

    def __init__(self, data: Data, setup: Setup) -> None:
        self.data, self.metainfo = data, _metainfo(data)
        self.resize = Resize(scale=_scale(setup), keep_ratio=True)
        self.pack = PackSegInputs()

    def __len__(self) -> int:
        return len(self.data.val)

    def sample(self, key: int) -> Any:
        """Return the image and the label map of an index."""
        item = self.data.val[key]
        return self.pack({**self.resize(_image(self.data, item)), "gt_seg_map": self.data.read(item)})


class Endless(Sampler[tuple[int, int]]):
    """Yields keys (number in the run, index in the split): this process's share of every step, from step `start` on.

    Each pass over the split has another order, which follows from the seed and the number of the pass.
    """

    def __init__(self, count: int, batch: int, seed: int, world: World, start: int) -> None:
        self.count, self.batch, self.seed, self.world, self.start = count, batch, seed, world, start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        share = self.batch // self.world.size
        step = self.start
        while True:
            first = step * self.batch + self.world.rank * share
            for serial in range(first, first + share):
                turn, position = divmod(serial, self.count)
                yield serial, int(_order(self.count, self.seed, turn)[position])
            step += 1


@lru_cache(maxsize=2)
def _order(count: int, seed: int, turn: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(_seed("order", seed, turn))).permutation(count)


def _seed(*words: Any) -> int:
    return int.from_bytes(hashlib.sha256(" ".join(map(str, words)).encode()).digest()[:8])


def training_loader(data: Data, setup: Setup, world: World, start: int, workers: int) -> DataLoader[Any]:
    """Return a loader of endless batches of training samples, from step `start` on.

    Raises UserError where the batch cannot be divided among the processes.
    """
    batch = setup.options.train_batch
    if batch % world.size:
        raise UserError(f"--train-batch {batch} cannot be divided among {world.size} processes; give a multiple")
    sampler = Endless(len(data.train), batch, setup.options.train_seed, world, start)
    pin, share = world.device.type == "cuda", batch // world.size
    most = share * setup.crop**2 * PIXEL_BYTES
    return make_loader(Training(data, setup), pseudo_collate, workers, pin, batch_bytes=most, batch_size=share, sampler=sampler)


def scoring_loader(data: Data, setup: Setup, world: World, workers: int) -> DataLoader[Any]:
    """Return a loader of the images to score, one at a time, divided among processes."""
    dataset, pin = Scoring(data, setup), world.device.type == "cuda"
    sampler = DefaultSampler(dataset, shuffle=False)
    long, short = _scale(setup)
    most = long * short * PIXEL_BYTES
    return make_loader(dataset, pseudo_collate, workers, pin, batch_bytes=most, batch_size=1, sampler=sampler)


def _image(data: Data, item: Any) -> dict[str, Any]:
    pixels = np.ascontiguousarray(np.asarray(data.dataset.image(item))[:, :, ::-1])  # mmseg expects BGR
    return {"img": pixels, "img_shape": pixels.shape[:2], "ori_shape": pixels.shape[:2], "img_path": item.name}


def _metainfo(data: Data) -> dict[str, Any]:
    return {"classes": tuple(data.classes), "palette": [[0, 0, 0]] * len(data.classes)}
