"""Features that several processes extract together: each image once, as one process does, for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes_as_threads import in_threads

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.datasets.dataset import Dataset, Item
from densebench.errors import UserError
from densebench.features import extract as extraction
from densebench.features import shared_store
from densebench.features.extract import Extraction
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.files.tensors import keys_of
from densebench.processes import rank

COUNT = 23


@dataclass(frozen=True, kw_only=True)
class Drawn(Dataset):
    """Images of three sizes; the last two are the same picture."""

    name: str = "drawn"

    def list_items(self, split):
        return (Item(str(number), None, None) for number in range(COUNT))

    def image(self, item):
        width, height = self.image_size(item)
        drawn = np.random.default_rng(self.picture(item)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(drawn)

    def image_size(self, item):
        return [(16, 24), (24, 16), (32, 32)][self.picture(item) % 3]

    def image_digest(self, item):
        return digest([self.picture(item)])

    def picture(self, item):
        return min(int(item.name), COUNT - 2)


class Noting(torch.nn.Module):
    """Patch means, and beside them how many images were passed together; notes by rank which shapes it was given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, images):
        self.given.append((rank(), tuple(images.shape)))
        means = torch.nn.functional.avg_pool2d(images, 8)
        return torch.cat([means, torch.full_like(means[:, :1], len(images))], 1)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def wanted(batch_size=4):
    """A function that extracts and returns every image's features, and the module that notes the work."""
    module = Noting()
    backbone = Backbone(module, BackboneInfo("noting", "noting", 4, 8, (0.5,) * 3, (0.5,) * 3), "weights")
    dataset = Drawn(root=Path())
    items = dataset.items("val")
    one = Extraction(backbone, dataset, items, View(8))

    def extracted():
        features = one.features(batch_size=batch_size)
        return [features[item].clone() for item in items]

    return extracted, module, one


def alone(tmp_path, monkeypatch, batch_size=4):
    """What one process extracts, with a cache of its own."""
    with monkeypatch.context() as other:
        other.setenv("DENSEBENCH_CACHE", str(tmp_path / "of one"))
        extracted, module, _ = wanted(batch_size)
        return extracted(), module.given


@pytest.mark.parametrize("size", [2, 3, 11])
def test_each_image_is_computed_once_and_as_in_one_process(size, tmp_path, monkeypatch):
    """With eleven processes some have no batch."""
    expected, given = alone(tmp_path, monkeypatch)
    extracted, module, one = wanted()
    for found in in_threads(size, extracted):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert sorted(shape for _, shape in module.given) == sorted(shape for _, shape in given)
    assert len({number for number, _ in module.given}) == min(size, len(given))
    stored = [key for path in one.folder.glob("*.safetensors") for key in keys_of(path)]
    assert len(stored) == len({*stored}) == COUNT - 1, "images of the same bytes are stored once"
    module.given.clear()
    assert len(in_threads(size, extracted)) == size
    assert module.given == [], "what is stored is not computed again"


def test_gpus_with_unlike_room_leave_no_image_out(tmp_path, monkeypatch):
    """The least of what the processes can pass at once counts for all."""
    expected, _ = alone(tmp_path, monkeypatch, batch_size=2)
    monkeypatch.setattr(extraction, "images_at_once", lambda *_: 5 - 3 * rank())
    extracted, module, _ = wanted(None)
    for found in in_threads(2, extracted):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert max(shape[0] for _, shape in module.given) == 2


@pytest.mark.parametrize("filled", [False, True])
def test_processes_with_caches_of_their_own_are_told_so(filled, tmp_path, monkeypatch):
    """Also where the main process finds everything in its cache."""
    monkeypatch.setattr(shared_store, "LOOKS", 0)
    monkeypatch.setattr(extraction, "cache_root", lambda: tmp_path / f"cache of {rank()}")
    extracted, _, _ = wanted()
    if filled:
        extracted()
    with pytest.raises(UserError, match="the 2 processes do not share one cache: .* DENSEBENCH_CACHE"):
        in_threads(2, extracted)
