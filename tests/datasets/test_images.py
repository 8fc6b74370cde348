"""Images without labels: trees, tar shards, data sets, several together, a part of them, and what is wrong with what is given."""

from __future__ import annotations

import io
import itertools
import tarfile

import numpy as np
import pytest
from PIL import Image

from densebench.datasets import load_dataset
from densebench.datasets.unlabelled import open_images
from densebench.errors import UserError


def picture(number, size=(6, 4)):
    return Image.fromarray(np.full((size[1], size[0], 3), number, np.uint8))


def put(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path)


def shard(path, members, mode="w"):
    """A tar archive of PNG images (a number) and other files (bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            if not isinstance(content, bytes):
                stream = io.BytesIO()
                picture(content).save(stream, "png")
                content = stream.getvalue()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def colours(images):
    return [int(images.pixels(i)[0, 0, 0]) for i in range(len(images))]


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "photos"
    for number, name in enumerate(["b/deep/er/x.png", "a.png", "b/y.PNG", "c/z.bmp", "b/a/w.tif"]):
        put(folder / name, 10 * number)
    (folder / "notes.txt").write_text("no image")
    (folder / "b" / "x.json").write_text("{}")
    return folder


def test_a_folder_is_read_at_any_depth_in_the_order_of_paths(tree):
    images = open_images([str(tree)])
    assert images.name == "photos"
    assert len(images) == 5
    assert [images.title(i) for i in range(5)] == ["a.png", "b/a/w.tif", "b/deep/er/x.png", "b/y.PNG", "c/z.bmp"]
    assert colours(images) == [10, 40, 0, 20, 30]


def test_pixels_are_rgb_bytes_by_row(tmp_path):
    put(tmp_path / "a.png", 7)
    Image.new("L", (6, 4), 9).save(tmp_path / "b.png")
    Image.new("RGBA", (6, 4), (1, 2, 3, 0)).save(tmp_path / "c.png")
    Image.new("P", (6, 4)).save(tmp_path / "d.png")
    Image.new("CMYK", (6, 4)).save(tmp_path / "e.jpg")
    images = open_images([str(tmp_path)])
    for i in range(5):
        pixels = images.pixels(i)
        assert pixels.shape == (4, 6, 3)
        assert pixels.dtype == np.uint8
        assert images.open(i).mode == "RGB"
    assert colours(images) == [7, 9, 1, 0, 255]


def test_a_file_that_is_no_image_is_named(tree):
    (tree / "a.png").write_bytes(b"not a picture")
    images = open_images([str(tree)])
    with pytest.raises(UserError, match=r"a\.png"):
        images.open(0)
    assert [images.pixels(i)[0, 0, 0] for i in range(1, 5)] == [40, 0, 20, 30]


def test_a_truncated_file_is_named(tree):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tree / "a.png")
    whole = (tree / "a.png").read_bytes()
    (tree / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.png"):
        open_images([str(tree)]).open(0)


def test_a_shard_is_read_in_place(tmp_path):
    shard(tmp_path / "train.tar", {"n01/b.png": 5, "n01/a.png": 6, "readme.txt": b"hello", "labels.json": b"{}", "n02/c.PNG": 7})
    images = open_images([str(tmp_path / "train.tar")])
    assert len(images) == 3
    assert colours(images) == [5, 6, 7]
    assert [images.title(i).endswith(name) for i, name in enumerate(["n01/b.png", "n01/a.png", "n02/c.PNG"])] == [True] * 3
    assert all("train.tar" in images.title(i) for i in range(3))


def test_a_folder_of_shards_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "shards"
    shard(folder / "001.tar", {"a.png": 3, "b.png": 4})
    shard(folder / "000.tar", {"a.png": 1, "b.png": 2})
    shard(folder / "002.tar", {"notes.txt": b"nothing here"})
    images = open_images([str(folder)])
    assert colours(images) == [1, 2, 3, 4]
    assert images.name == "shards"
    assert "000.tar" in images.title(0)
    assert "001.tar" in images.title(2)


def test_a_broken_member_is_named(tmp_path):
    shard(tmp_path / "x.tar", {"a.png": b"rubbish", "b.png": 4})
    images = open_images([str(tmp_path / "x.tar")])
    with pytest.raises(UserError, match=r"x\.tar.*a\.png"):
        images.open(0)
    assert images.pixels(1)[0, 0, 0] == 4


def test_the_images_of_a_labelled_data_set():
    images, dataset = open_images(["scenes"]), load_dataset("scenes", None)
    items = dataset.items("train")
    assert images.name == "scenes"
    assert len(images) == len(items) == 256
    for i in (0, 100, 255):
        assert np.array_equal(images.pixels(i), np.asarray(dataset.image(items[i]).convert("RGB")))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("imagenet", "ILSVRC2012/train"),
        ("imagenet", "imagenet/train"),
        ("coco", "coco/train2017"),
        ("coco", "coco/images/train2017"),
    ],
)
def test_official_layouts_below_the_data_root(tmp_path, name, folder):
    put(tmp_path / folder / "n01" / "a.png", 8)
    images = open_images([name], root=tmp_path)
    assert images.name == name
    assert colours(images) == [8]


def test_coco_plus_is_both_halves(tmp_path):
    put(tmp_path / "coco" / "train2017" / "a.png", 1)
    with pytest.raises(UserError, match="coco-unlabeled"):
        open_images(["coco+"], root=tmp_path)
    put(tmp_path / "coco" / "unlabeled2017" / "a.png", 2)
    images = open_images(["coco+"], root=tmp_path)
    assert images.name == "coco+"
    assert colours(images) == [1, 2]


def test_several_are_joined_one_after_the_other(tree, tmp_path):
    shard(tmp_path / "x.tar", {"a.png": 100, "b.png": 101})
    images = open_images([str(tmp_path / "x.tar"), str(tree), "scenes"])
    assert len(images) == 2 + 5 + 256
    assert [int(images.pixels(i)[0, 0, 0]) for i in range(7)] == [100, 101, 10, 40, 0, 20, 30]
    assert np.array_equal(images.pixels(7), open_images(["scenes"]).pixels(0))
    assert np.array_equal(images.pixels(262), open_images(["scenes"]).pixels(255))
    assert images.title(2).endswith("a.png")
    assert "photos" in images.title(2)
    assert all(part in images.name for part in ("x", "photos", "scenes"))
    with pytest.raises(IndexError):
        images.open(263)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10])
def test_a_limit_takes_evenly_spaced_images(tmp_path, limit):
    for number in range(10):
        put(tmp_path / "photos" / f"{number}.png", number)
    whole, images = open_images([str(tmp_path / "photos")]), open_images([str(tmp_path / "photos")], limit=limit)
    numbers = colours(images)
    assert len(images) == len(set(numbers)) == limit
    assert numbers == sorted(numbers)
    assert all(later - sooner in (10 // limit, -(-10 // limit)) for sooner, later in itertools.pairwise(numbers))
    assert [images.title(i) for i in range(limit)] == [whole.title(number) for number in numbers]
    assert images.name == whole.name


def test_a_limit_above_the_count_takes_all(tree):
    assert colours(open_images([str(tree)], limit=99)) == colours(open_images([str(tree)]))


def test_a_limit_counts_all_that_is_joined(tree, tmp_path):
    shard(tmp_path / "x.tar", {f"{i}.png": 100 + i for i in range(5)})
    assert colours(open_images([str(tree), str(tmp_path / "x.tar")], limit=2)) == [10, 100]


def test_the_digest_is_of_the_names_in_their_order(tree, tmp_path):
    digest = open_images([str(tree)]).digest()
    assert open_images([str(tree)]).digest() == digest
    assert open_images([str(tree)], limit=4).digest() != digest
    one, other = str(tree), "scenes"
    assert open_images([one, other]).digest() != open_images([other, one]).digest()
    (tree / "a.png").rename(tree / "a2.png")
    assert open_images([str(tree)]).digest() != digest


def test_a_folder_without_an_image_is_refused(tmp_path):
    folder = tmp_path / "empty"
    (folder / "deeper").mkdir(parents=True)
    (folder / "deeper" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"empty.*no image.*give a folder"):
        open_images([str(folder)])


def test_a_folder_that_is_called_like_an_image_is_none(tmp_path):
    put(tmp_path / "photos" / "album.png" / "a.png", 3)
    images = open_images([str(tmp_path / "photos")])
    assert [images.title(i) for i in range(len(images))] == ["album.png/a.png"]


@pytest.mark.parametrize("single", [True, False])
def test_shards_without_an_image_are_refused(tmp_path, single):
    shard(tmp_path / "shards" / "text.tar", {"a.txt": b"no image"})
    given = tmp_path / "shards" / "text.tar" if single else tmp_path / "shards"
    with pytest.raises(UserError, match=rf"{given.name}.*; ") as refusal:
        open_images([str(given)])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("mode", ["w:gz", None])
def test_a_shard_that_is_compressed_or_no_archive_is_refused(tmp_path, mode):
    if mode:
        shard(tmp_path / "x.tar", {"a.png": 5}, mode)
    else:
        (tmp_path / "x.tar").write_bytes(b"rubbish" * 200)
    with pytest.raises(UserError, match=r"x\.tar is not an uncompressed tar.*unpack"):
        open_images([str(tmp_path / "x.tar")])


@pytest.mark.parametrize(("name", "hint"), [("imagnet", "imagenet"), ("scene", "scenes"), ("coc+", "coco")])
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    with pytest.raises(UserError, match=rf"'{name.replace('+', '.')}'.*did you mean.*{hint}.*give a folder"):
        open_images([name])


def test_what_is_missing_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*give a folder"):
        open_images([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"nowhere\.tar.*give"):
        open_images([str(tmp_path / "nowhere.tar")])
    with pytest.raises(UserError, match=r"imagenet.*--data-root"):
        open_images(["imagenet"], root=tmp_path)


def test_one_bad_part_spoils_the_whole(tree):
    with pytest.raises(UserError, match="nowhere"):
        open_images([str(tree), "nowhere"])
