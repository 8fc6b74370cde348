"""What stays in memory between probes: labels and views as the data set gives them, never those of something else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.backbones.loading import load_backbone
from densebench.datasets.dataset import Dataset, Item
from densebench.features.extract import Normalisation, extract
from densebench.features.memory import Memory
from densebench.features.views import View
from densebench.files.atomic import digest

AMPLE = 2**24


@dataclass(frozen=True, kw_only=True)
class Salted(Dataset):
    """Images of noise, one of which has a twin of another name; `salts` holds what decides their pixels."""

    salts: dict[str, int]
    name: str = "salted"

    def list_items(self, split):
        return (Item(name, None, None) for name in self.salts)

    def _noise(self, item):
        return np.random.default_rng(self.salts[item.name]).integers(0, 250, (32, 32, 3), dtype=np.uint8)

    def image(self, item):
        return Image.fromarray(self._noise(item))

    def label(self, item):
        return self._noise(item)[..., 0]

    def image_size(self, item):
        return 32, 32

    def image_digest(self, item):
        return digest([self.salts[item.name]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))


def data():
    return Salted(root=Path(), salts={"a": 0, "b": 1, "twin of a": 0})


def features(dataset, names, view=View(16), **more):  # noqa: B008 (a view is a value)
    items = [Item(name, None, None) for name in names]
    found = extract(load_backbone("pixels:16"), dataset, items, view, **more)
    return torch.stack([found[item] for item in items])


def test_a_caller_that_changes_a_label_or_an_image_changes_nothing_that_is_kept():
    memory, item = Memory(data(), AMPLE), Item("a", None, None)
    for _ in range(3):
        label, image = memory.dataset.label(item), memory.dataset.image(item)
        assert np.array_equal(label, data().label(item)) and image.tobytes() == data().image(item).tobytes()
        label[:] = 7
        image.paste((9, 9, 9), (0, 0, 32, 32))


CHANGES = {
    "another view": {"view": View(16, 16)},
    "another draw": {"view": View(16, 16, augment=True, epoch=1)},
    "other statistics": {"normalisation": Normalisation((0.1,) * 3, (0.2,) * 3)},
    "images of the same bytes": {"names": ("twin of a", "b")},
    "another order": {"names": ("b", "a")},
    "one of them": {"names": ("a",)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_views_that_are_kept_are_not_taken_for_others(change):
    dataset = data()
    memory = Memory(dataset, AMPLE)
    with memory.used():
        features(memory.dataset, ("a", "b"))
        features(memory.dataset, ("a", "b"), View(16, 16, augment=True))
    given = {"names": ("a", "b"), **CHANGES[change]}
    with memory.used():
        kept = features(memory.dataset, **given)
    assert torch.equal(kept, features(dataset, **given))


def test_an_image_whose_bytes_have_changed_is_decoded_again():
    dataset = data()
    memory = Memory(dataset, AMPLE)
    with memory.used():
        before = features(memory.dataset, ("a", "b"))
    dataset.salts["b"] = 5
    with memory.used():
        assert not torch.equal(features(memory.dataset, ("a", "b")), before)


def test_the_features_of_a_use_are_not_those_of_the_next_one():
    memory = Memory(data(), AMPLE)
    with memory.used():
        memory.table("any").add({"x": torch.zeros(1)})
        assert len(memory.table("any")) == 1
    with memory.used():
        assert len(memory.table("any")) == 0


def test_no_more_is_kept_than_the_budget_allows():
    memory = Memory(data(), 32 * 32 + 100)
    for name in ("a", "b"):
        memory.dataset.label(Item(name, None, None))
    assert memory.bytes == 32 * 32
