"""JPEG files decoded at a reduced scale (`--decoder reduced`): which files, at which scale, and how much the pixels differ."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import train

from densebench import evaluate
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.images import First, Joined
from densebench.datasets.io.decoding import read_image, read_reduced, use_decoder
from densebench.datasets.unlabelled import Labelled, Tree, open_images
from densebench.errors import UserError
from densebench.training.cache import Cache


@pytest.fixture(params=["Pillow's draft", "simplejpeg"])
def reducing(request, monkeypatch):
    """The decoder `reduced`, with simplejpeg and without it."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr("densebench.extras.importlib.util.find_spec", lambda name: None)
    use_decoder("reduced")
    yield
    use_decoder("pillow")


@pytest.fixture
def plain():
    """Decode as usual after the test."""
    yield
    use_decoder("pillow")


def picture(width, height, seed=0):
    """A picture with smooth parts and edges."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height))
    smooth.paste((200, 30, 90), (width // 5, height // 5, width // 3, height // 2))
    return smooth


SCALES = {(640, 480, 241): 1, (640, 480, 240): 2, (640, 480, 120): 4, (480, 640, 121): 2, (801, 803, 100): 8, (3000, 250, 16): 8}


@pytest.mark.parametrize("sizes", SCALES, ids=str)
def test_the_scale_is_the_smallest_whose_short_side_is_wide_enough(sizes, reducing, tmp_path):
    width, height, side = sizes
    picture(width, height).save(tmp_path / "a.jpg")
    image, full = read_reduced(tmp_path / "a.jpg", side)
    assert full == (width, height)
    assert image.size == (-(-width // SCALES[sizes]), -(-height // SCALES[sizes]))


@pytest.mark.parametrize("decoder", ["pillow", "turbo"])
def test_other_decoders_never_reduce(decoder, plain, tmp_path):
    if decoder == "turbo":
        pytest.importorskip("simplejpeg")
    picture(640, 480).save(tmp_path / "a.jpg")
    use_decoder(decoder)
    image, full = read_reduced(tmp_path / "a.jpg", 16)
    assert image.size == full == (640, 480)


KINDS = {"a.png": ("RGB", 1), "grey.jpg": ("L", 4), "cmyk.jpg": ("CMYK", 4), "progressive.jpg": ("RGB", 4)}


@pytest.mark.parametrize("name", KINDS)
def test_only_jpeg_files_are_reduced_and_all_become_rgb(name, reducing, tmp_path):
    mode, scale = KINDS[name]
    more = {"progressive": True} if "progressive" in name else {}
    picture(400, 300).convert(mode).save(tmp_path / name, **more)
    image, full = read_reduced(tmp_path / name, 75)
    assert (image.mode, image.size, full) == ("RGB", (400 // scale, 300 // scale), (400, 300))
    assert np.abs(np.asarray(read_image(tmp_path / name).resize(image.size)).astype(int) - np.asarray(image)).mean() < 2


def test_an_image_that_is_not_wanted_small_is_decoded_whole(reducing, tmp_path):
    picture(640, 480).save(tmp_path / "a.jpg")
    whole = read_image(tmp_path / "a.jpg")
    use_decoder("pillow")
    assert np.array_equal(np.asarray(whole), np.asarray(read_image(tmp_path / "a.jpg")))


@pytest.mark.parametrize("variant", [(subsampling, progressive) for subsampling in (0, 2) for progressive in (False, True)])
def test_both_libraries_reduce_to_the_same_pixels(variant, plain, monkeypatch, tmp_path):
    pytest.importorskip("simplejpeg")
    subsampling, progressive = variant
    picture(333, 250).save(tmp_path / "a.jpg", subsampling=subsampling, progressive=progressive)

    def read():
        use_decoder("reduced")
        return [np.asarray(read_reduced(tmp_path / "a.jpg", side)[0]) for side in (125, 60, 30)]

    by_turbo = read()
    monkeypatch.setattr("densebench.extras.importlib.util.find_spec", lambda name: None)
    assert all(np.array_equal(one, other) for one, other in zip(by_turbo, read(), strict=True))


class Cropped(Dataset):
    """A data set that shows a part of its files."""

    def image(self, item):
        return read_image(item.image).crop((100, 100, 300, 300))

    def image_size(self, item):
        return 200, 200


def sets(folder):
    """The same two pictures, from every kind of source."""
    paths = sorted(folder.glob("*.jpg"))
    with tarfile.open(folder / "s.tar", "w") as archive:
        for path in paths:
            member, content = tarfile.TarInfo(path.name), path.read_bytes()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    tree = Tree("tree", folder, tuple(path.name for path in paths))
    items = tuple(Item(path.stem, path, None) for path in paths)
    return {
        "folder": tree, "shard": open_images(str(folder / "s.tar")), "labelled": Labelled("set", Dataset(root=folder), items),
        "joined": Joined("two", (First(tree, (0,)), First(tree, (1,)))), "first": First(tree, (0, 1)),
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for number, size in enumerate([(1001, 667), (500, 801)]):
        picture(*size, seed=number).save(tmp_path / f"{number}.jpg", quality=90)
    return tmp_path


@pytest.mark.parametrize("kind", ["folder", "shard", "labelled", "joined", "first"])
def test_reduced_images_are_cached_in_the_size_of_whole_ones_with_almost_their_pixels(kind, folder, reducing, monkeypatch):
    images = sets(folder)[kind]
    read, sizes = Image.Image.resize, []
    monkeypatch.setattr(Image.Image, "resize", lambda self, *given, **more: sizes.append(self.size) or read(self, *given, **more))
    found = Cache(images, 64, shared=False)
    assert sizes == [(126, 84), (125, 201)] or sizes == [(125, 201), (126, 84)]
    use_decoder("pillow")
    wanted = Cache(images, 64, shared=False)
    assert found.shapes == wanted.shapes == [(64, 96), (103, 64)]
    differences = np.abs(found.bytes.numpy().astype(int) - wanted.bytes.numpy())
    assert 0 < differences.mean() < 1 and differences.max() < 48


def test_a_reduced_image_shows_as_much_as_the_whole_one(reducing, tmp_path):
    """The last of 126 columns stands for one of the file's; taken for eight, it moves the others by up to 0.7 %."""
    ramp = np.linspace(0, 255, 1001).round().astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (641, 1001, 3)).copy()).save(tmp_path / "a.jpg", quality=100)
    found = Cache(open_images(tmp_path), 40, shared=False).pixels(0)
    use_decoder("pillow")
    wanted = Cache(open_images(tmp_path), 40, shared=False).pixels(0)
    assert np.abs(found.astype(int) - wanted).mean() < 0.4


def test_what_a_data_set_makes_of_its_files_is_never_reduced(folder, reducing):
    items = tuple(Item(path.stem, path, None) for path in sorted(folder.glob("*.jpg")))
    images = Labelled("cropped", Cropped(root=folder), items)
    found = Cache(images, 64, shared=False)
    use_decoder("pillow")
    assert np.array_equal(found.bytes, Cache(images, 64, shared=False).bytes)


def test_a_run_records_that_its_images_were_decoded_at_a_reduced_scale(folder, reducing):
    run = train("dino", folder / "run", data=[str(folder)], limit=None, batch_size=2, steps=1, cache="ram", cache_side=64,
                decoder="reduced")  # fmt: skip
    assert json.loads((run / "run.json").read_text())["runtime"]["decoder"] == "reduced"


def test_without_a_cache_it_is_one_line(plain, tmp_path):
    with pytest.raises(UserError, match="--decoder reduced needs images that are cached small; give --cache ram or gpu"):
        train("dino", tmp_path / "run", cache="none", decoder="reduced")
    assert not (tmp_path / "run").exists()


def test_evaluation_does_not_take_it():
    with pytest.raises(UserError, match="--decoder 'reduced': it takes pillow, turbo"):
        evaluate("random:test_vit", "incontext", "scenes", decoder="reduced")


@pytest.mark.slow
@pytest.mark.parametrize(("side", "mean", "worst"), [(212, 2.2, 8), (106, 2.4, 8)])
def test_photographs_differ_little(side, mean, worst, shared_data: Path, reducing):
    """Means in levels of 256, over all pictures and of the worst one; the sides are nearly a half and a quarter of 480 px."""
    files = sorted((shared_data / "coco" / "train2017").glob("*.jpg"))[:60]
    images = Tree("photographs", files[0].parent, tuple(path.name for path in files))
    found = Cache(images, side, shared=False)
    use_decoder("pillow")
    wanted = Cache(images, side, shared=False)
    levels = [np.abs(found.pixels(i).astype(int) - wanted.pixels(i)).mean() for i in range(len(files))]
    assert 0.5 < np.mean(levels) < mean and max(levels) < worst
