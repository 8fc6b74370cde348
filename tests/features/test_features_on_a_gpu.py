"""Features on the simulated device: those of the CPU, without a wait, and with one read a batch, which overlaps with work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from simulated_cuda.report import OVERLAPPED, TO_DEVICE, TO_HOST, WAIT

from densebench.backbones.loading import load_backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.features.extract import Extraction
from densebench.features.memory import Memory
from densebench.features.views import View

IMAGES, SIZE, BATCH = 12, 32, 3
BLOCKING = (WAIT, TO_HOST, TO_DEVICE, OVERLAPPED)
KEPT = {str(number): torch.arange(number % 4 + 1) for number in range(IMAGES)}
"""Patches to keep: other numbers of them for other images."""


class Noise(Dataset):
    """Images of noise, each from its number."""

    def list_items(self, split):
        return [Item(str(number), None, None) for number in range(IMAGES)]

    def image(self, item):
        return Image.fromarray(np.random.default_rng(int(item.name)).integers(0, 256, (40, 48, 3), dtype=np.uint8))

    def image_size(self, item):
        return 48, 40

    def image_digest(self, item):
        return item.name


DATA = Noise(root=Path())


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Return a function that makes the cache an empty one."""

    def empty(name):
        monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / name))

    empty("first")
    return empty


def features(device, patches=None, batch_size=BATCH, dataset=DATA, count=IMAGES):
    items = dataset.items("train")[:count]
    extraction = Extraction(load_backbone("random:test_vit"), dataset, items, View(16, SIZE), patches)
    found = extraction.features(device, batch_size)
    return [found[item].clone() for item in items]


def same(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("patches", [None, KEPT], ids=["all", "chosen"])
def test_features_are_those_of_the_cpu_and_no_batch_makes_the_host_wait(patches, own_cache, cuda):
    expected = features("cpu", patches)
    counts = []
    for number in (IMAGES // 2, IMAGES):
        own_cache(f"gpu of {number}")
        before = cuda.counts.copy()
        found = features("cuda", patches, count=number)
        assert same(found, expected[:number])
        counts.append(cuda.counts - before)
    more, batches = counts[1] - counts[0], IMAGES // 2 // BATCH
    total = {wanted: sum(count for (kind, _, _), count in more.items() if kind == wanted) for wanted in BLOCKING}
    assert total == {WAIT: 0, TO_HOST: 0, TO_DEVICE: 0, OVERLAPPED: batches}, cuda.table()


@pytest.mark.parametrize("patches", [pytest.param(None, marks=pytest.mark.slow), KEPT], ids=["all", "chosen"])
def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same_features(patches, own_cache, cuda, monkeypatch, capsys):
    expected = features("cpu", patches)
    own_cache("gpu")
    passed, sizes = Extraction.passed, []

    def small(self, images, device):
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return passed(self, images, device)

    monkeypatch.setattr(Extraction, "passed", small)
    before = cuda.counts.copy()
    assert same(features("cuda", patches, batch_size=4), expected)
    assert sizes == [4, *[2] * 6]
    assert "4 images do not fit the memory of the GPU: 2 go through the network together" in capsys.readouterr().err
    more = cuda.counts - before
    assert not sum(count for (kind, _, _), count in more.items() if kind in (WAIT, TO_HOST)), cuda.table()


def test_views_that_are_kept_in_memory_are_copied_without_a_wait(cuda):
    expected = features("cpu")
    memory = Memory(DATA, 2**30)
    for _ in range(2):  # decoded, then from memory
        before = cuda.counts.copy()
        with memory.used():
            assert same([found.cpu() for found in features("cuda", dataset=memory.dataset)], expected)
        more = cuda.counts - before
        copies = [where for kind, _, where in more if kind == TO_DEVICE and "features/pipeline" in where]
        assert not copies and not sum(count for (kind, _, _), count in more.items() if kind in (WAIT, TO_HOST)), cuda.table()


def test_what_kept_views_take_of_page_locked_memory_is_in_the_budget(cuda):
    """torch gives it in powers of two."""
    views = 3 * SIZE**2 * 4
    memory = Memory(DATA, 2**30)
    with memory.used():
        features("cuda", dataset=memory.dataset)
    batch = 1 << (BATCH * views - 1).bit_length()
    assert BATCH * views < batch and memory.bytes == IMAGES // BATCH * batch
