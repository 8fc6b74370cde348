"""The feature cache: a hit needs the same weights, image bytes, view, statistics and precision; everything else misses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.weights import weights_digest
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.io import shared_memory
from densebench.errors import UserError
from densebench.features.extract import Normalisation, extract
from densebench.features.views import View
from densebench.files.atomic import digest
from densebench.files.store import Store

SHAPES = [(16, 24), (24, 16), (16, 24), (32, 32)]  # height, width


@dataclass(frozen=True, kw_only=True)
class Few(Dataset):
    name: str = "few"
    salt: int = 0

    def list_items(self, split):
        return (Item(str(i), None, None) for i in range(4))

    def image(self, item):
        height, width = SHAPES[int(item.name)]
        pixels = np.random.default_rng(int(item.name) + self.salt).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def image_size(self, item):
        height, width = SHAPES[int(item.name)]
        return width, height

    def image_digest(self, item):
        return digest([self.salt, item.name])


class Count(torch.nn.Module):
    """Patch means through one weight; counts the images that it sees."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([weight]))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return torch.nn.functional.avg_pool2d(images, 8) * self.weight


def backbone(weight=1.0, **facts):
    trunk = Count(weight)
    return Backbone(trunk, BackboneInfo("count", "count", 3, 8, (0.5,) * 3, (0.25,) * 3, **facts), weights_digest(trunk))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))


DATA = Few(root=Path())
VIEW = View(8, 16)


def run(model=None, dataset=DATA, view=VIEW, **more):
    model = model or backbone()
    found = extract(model, dataset, dataset.items("train"), view, **more)
    return model.trunk.seen, found


def test_features_are_those_of_each_image_alone():
    _, found = run(view=View(8))
    for item in DATA.items("train"):
        pixels = torch.from_numpy(np.array(DATA.image(item))).permute(2, 0, 1).float() / 255
        expected = torch.nn.functional.avg_pool2d((pixels - 0.5) / 0.25, 8).permute(1, 2, 0)
        torch.testing.assert_close(found[item], expected)  # also: rows are rows, and no image got another's


def test_the_same_again_is_a_hit():
    assert run()[0] == 4
    assert run()[0] == 0
    assert run(batch_size=1)[0] == 0
    assert extract(backbone(), DATA, DATA.items("train")[:2], VIEW)[DATA.items("train")[1]].shape == (2, 2, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"model": (1.0000001,)},
        {"facts": {"layer": "11"}},
        {"facts": {"pos_embed": "plain"}},
        {"dataset": replace(DATA, salt=1)},
        {"view": View(8, 24)},
        {"view": View(8, 16, resample="bicubic")},
        {"view": View(8, 16, augment=True)},
        {"view": View(8, 16, augment=True, epoch=1)},
        {"normalisation": Normalisation((0.5,) * 3, (0.25, 0.25, 0.26))},
        {"normalisation": Normalisation((0.5, 0.5, 0.51), (0.25,) * 3)},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_any_change_misses(change):
    run()
    run(view=View(8, 16, augment=True, epoch=2))
    made = backbone(*change.pop("model", ()), **change.pop("facts", {}))
    assert run(made, **change)[0] == 4


def test_the_resampling_of_label_maps_does_not_matter_to_features():
    run()
    assert run(view=View(8, 16, mask_resample="nearest"))[0] == 0


def test_what_was_finished_before_a_kill_is_kept(monkeypatch):
    from densebench.features import extract as features

    monkeypatch.setattr(features, "SHARD_BYTES", 1)
    model = backbone()
    plain = Count.forward

    def dies(self, images):
        if self.seen == 2:
            raise KeyboardInterrupt
        return plain(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Count, "forward", dies)
        with pytest.raises(KeyboardInterrupt):
            run(model, batch_size=1)
    assert run()[0] == 2


def shards(folder):
    """The files of a cache's shards, by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}


PATCHES = {"0": torch.tensor([3, 0]), "1": torch.tensor([], dtype=torch.long), "2": torch.tensor([1]), "3": torch.arange(4)}


def test_chosen_patches_are_those_of_each_image(tmp_path):
    whole, chosen = run()[1], run(patches=PATCHES)[1]
    for item in DATA.items("train"):
        assert torch.equal(chosen[item], whole[item].flatten(0, 1)[PATCHES[item.name]])


@pytest.mark.slow
@pytest.mark.parametrize("patches", [None, PATCHES])
def test_pieces_that_the_shared_memory_asks_for_change_no_byte(patches, tmp_path, monkeypatch):
    """They go through the network in the batches in which they would have gone as a whole."""
    run(patches=patches)
    whole = shards(tmp_path)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 20_000)
    sizes = []
    plain = Count.forward
    monkeypatch.setattr(Count, "forward", lambda self, images: sizes.append(len(images)) or plain(self, images))
    run(patches=patches, workers=1)
    assert sizes == [4] and shards(tmp_path / "other") == whole


def test_a_full_disk_ends_the_work_and_leaves_finished_shards(monkeypatch):
    from densebench.features import extract as features

    monkeypatch.setattr(features, "SHARD_BYTES", 1)
    plain = Store.add

    def full(self, tensors):
        if len(self) == 2:
            raise UserError("cannot write: no space left on device")
        plain(self, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", full)
        with pytest.raises(UserError, match="no space left"):
            run(batch_size=1)
    assert run()[0] == 2


def test_images_whose_features_do_not_fit_the_device_go_through_it_in_parts(monkeypatch):
    whole = run()[1]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    plain = Count.forward

    def small(self, images):
        if len(images) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain(self, images)

    monkeypatch.setattr(Count, "forward", small)
    parts = run(backbone(2.0))[1]
    for item in DATA.items("train"):
        assert torch.equal(parts[item], 2 * whole[item])


def test_storage_has_the_precision_that_was_asked_for():
    assert run(precision="fp16")[1][DATA.items("train")[0]].dtype == torch.float16


def test_sizes_that_do_not_fit_fail_before_anything_is_computed():
    model = backbone()
    with pytest.raises(UserError, match="20 px does not fit count, whose stride is 8: use 16 or 24"):
        extract(model, DATA, DATA.items("train"), View(4, 20))
    assert model.trunk.seen == 0
