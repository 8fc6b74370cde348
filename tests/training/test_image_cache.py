"""Decoded images kept in memory: what is read of them when their bytes are on a GPU."""

from __future__ import annotations

import numpy as np
import torch
from few_images import VIEWS, Few

from densebench.training.augmentation import render
from densebench.training.batches import Reader, collate
from densebench.training.cache import Cache

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class OnDevice(torch.Tensor):
    """A tensor that refuses what a GPU's refuses."""

    def numpy(self, *, force=False):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_an_image_that_is_kept_on_a_device_can_be_drawn():
    """As the pictures of matches need it (`--cache gpu --visualise`)."""
    cache = Cache(Few(5), side=1000)
    cache.bytes = cache.bytes.as_subclass(OnDevice)
    for number in range(5):
        assert np.array_equal(np.asarray(cache.open(number)), np.asarray(Few(5).open(number)))


def test_views_of_kept_images_are_those_of_the_images():
    cache = Cache(Few(5), side=1000)
    shapes, kept = cache.on(torch.device("cpu"))
    keys = [(1, number) for number in range(5)]
    found, wanted = (collate([Reader(images, VIEWS, seed=0)[key] for key in keys]) for images in (shapes, Few(5)))
    assert found.pixels.nbytes == 0
    found = kept.fill(found)
    for view, recipe in enumerate(VIEWS):
        one, other = (render(batch.pixels, batch.offsets, batch.draws[view], recipe, MEAN, STD) for batch in (found, wanted))
        assert torch.equal(one, other)
