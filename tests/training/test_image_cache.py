"""Decoded images kept in memory: what is read of them when their bytes are on a GPU."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from few_images import VIEWS, Few
from PIL import Image

from densebench.datasets.io import shared_memory
from densebench.datasets.unlabelled import open_images
from densebench.errors import UserError
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


def reduced(image, side):
    """An image as it is cached, restated."""
    factor = side / min(image.size)
    if factor >= 1:
        return np.asarray(image)
    return np.asarray(image.resize((round(image.width * factor), round(image.height * factor)), reducing_gap=2.0))


def check(cache, wanted):
    """Every image has its pixels (None: it is broken), and the bytes are those of one after the other."""
    for number, pixels in enumerate(wanted):
        if pixels is None:
            with pytest.raises(UserError, match="cannot be decoded"):
                cache.tensor(number)
        else:
            assert np.array_equal(cache.pixels(number), pixels)
    parts = [pixels.ravel() for pixels in wanted if pixels is not None]
    assert np.array_equal(cache.bytes.numpy(), np.concatenate(parts))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("side", [16, 1000])
def test_images_are_decoded_into_one_buffer_one_after_the_other(side, shared):
    few = Few(150, broken=(0, 9, 149))
    cache = Cache(few, side, shared)
    assert cache.bytes.is_shared() == shared
    check(cache, [None if number in few.bad else reduced(few.open(number), side) for number in range(150)])


@pytest.fixture
def folder(tmp_path):
    """Files of noise by name, one of them cut short after its header."""
    rng = np.random.default_rng(0)
    for name, size in {"a.jpg": (60, 40), "b.png": (30, 50), "c.jpg": (200, 100), "d.jpg": (20, 20)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    whole = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "c.jpg").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def wanted_of(folder, side):
    def decoded(path):
        with Image.open(path) as image:
            return reduced(image.convert("RGB"), side)

    return [None if path.name == "c.jpg" else decoded(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("side", [25, 1000])
def test_a_file_whose_header_alone_is_whole_takes_no_room(folder, side):
    check(Cache(open_images(folder), side), wanted_of(folder, side))


def test_shards_and_joined_sets_are_cached_as_folders_are(folder, tmp_path_factory):
    shard = tmp_path_factory.mktemp("shards") / "one.tar"
    with tarfile.open(shard, "w") as archive:
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            member = tarfile.TarInfo(path.name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    both = open_images([str(shard), str(folder)])
    check(Cache(both, 25), 2 * wanted_of(folder, 25))
    assert [both.size(number) for number in (0, 3, 5)] == [(40, 60), (20, 20), (50, 30)]


class Lying(Few):
    """Images of which some are smaller or larger than their headers say."""

    def size(self, index):
        width, height = super().size(index)
        return width + (index % 3 - 1) * 7, height


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_images_of_another_size_than_their_headers_say_are_cached_whole(count):
    check(Cache(Lying(count), side=1000), [np.asarray(Few(count).open(number)) for number in range(count)])


def test_a_cache_that_the_shared_memory_does_not_hold_is_one_line_and_no_bus_error(monkeypatch):
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 1000)
    with pytest.raises(UserError, match=r"--cache ram: .* GB of shared memory, /dev/shm has 0\.0 GB free; .*--workers 0"):
        Cache(Few(5), side=1000)
    assert len(Cache(Few(5), side=1000, shared=False)) == 5
