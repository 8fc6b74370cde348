"""Data sets of videos: DAVIS 2016 and 2017 and folders of one's own, in small copies of their layouts."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from densebench.datasets import load_dataset
from densebench.datasets.catalog import fitting, present, titles_of
from densebench.errors import UserError

SIZE = (6, 4)  # width, height


def write_frame(folder, name, value=0):
    path = folder / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (value, 100, 100)).save(path)


def write_mask(folder, name, *values, size=SIZE, palette=False):
    """Values from the top left pixel on, the rest is 0."""
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = np.zeros(size[0] * size[1], np.uint8)
    flat[: len(values)] = values
    picture = Image.fromarray(flat.reshape(size[1], size[0]))
    if palette:
        picture.putpalette(bytes(range(256)) * 3)
    picture.save(path)


def write_videos(root, videos, between="480p", **more):
    """`videos`: the values of the masks of every sequence, frame by frame."""
    for name, masks in videos.items():
        for place, values in enumerate(masks):
            write_frame(root / "JPEGImages" / between, f"{name}/{place:05}", place)
            write_mask(root / "Annotations" / between, f"{name}/{place:05}", *values, **more)


def write_list(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def davis(tmp_path):
    root = tmp_path / "DAVIS"
    videos = {"boat": [(1, 2, 255), (1, 0), (2, 2)], "ant": [(3,), (1,), (0,), (5,)], "cow": [(1,), (1,), (1,)]}
    write_videos(root, videos, palette=True)
    write_list(root / "ImageSets" / "2017" / "val.txt", "boat", "ant")
    write_list(root / "ImageSets" / "2017" / "train.txt", "cow")
    write_list(root / "ImageSets" / "2016" / "val.txt", "boat")
    return tmp_path


def test_names_and_kind(davis):
    assert titles_of("videos").keys() >= {"davis2016", "davis2017"}
    assert fitting("videos").endswith(", frames:DIR") and "davis2017" in fitting("videos")
    assert fitting("label maps").endswith("folder:DIR")
    assert {"davis2016", "davis2017"} <= set(present(davis))


def test_frames_are_items_in_the_order_of_the_list(davis):
    dataset = load_dataset("davis2017", davis)
    items = dataset.items("val")
    assert [item.name for item in items] == [*(f"boat/{i:05}" for i in range(3)), *(f"ant/{i:05}" for i in range(4))]
    assert items[1].image == davis / "DAVIS/JPEGImages/480p/boat/00001.jpg"
    assert items[1].label == davis / "DAVIS/Annotations/480p/boat/00001.png"
    assert {name: len(frames) for name, frames in dataset.sequences(items).items()} == {"boat": 3, "ant": 4}
    assert [item.name for item in dataset.items("train")] == [f"cow/{i:05}" for i in range(3)]


def test_a_limit_counts_whole_sequences(tmp_path):
    names = [f"s{i}" for i in range(5)]
    write_videos(tmp_path, {name: [(1,)] * (3 + i) for i, name in enumerate(names)})
    dataset = load_dataset(f"frames:{tmp_path}")
    for limit, kept in ((1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (9, range(5)), (None, range(5))):
        assert {n: len(f) for n, f in dataset.sequences(dataset.part("all", limit)).items()} == {f"s{i}": 3 + i for i in kept}


def test_ids_are_kept_and_void_is_background(davis):
    dataset = load_dataset("davis2017", davis)
    boat, ant = dataset.sequences(dataset.items("val")).values()
    assert dataset.label(boat[0]).ravel().tolist()[:4] == [1, 2, 0, 0]
    assert dataset.label(boat[0]).shape == (4, 6) and dataset.label(boat[0]).dtype == np.uint8
    assert dataset.raw_label(boat[0]).ravel().tolist()[:3] == [1, 2, 255]
    assert (dataset.objects(boat), dataset.objects(ant)) == (2, 3)  # the greatest id of the first frame, though 5 comes later
    assert dataset.facts() == {"mapping": "davis2017-ids-v1"}


def test_davis_2016_has_one_object_whatever_its_value(davis, tmp_path):
    dataset = load_dataset("davis2016", davis)
    [boat] = dataset.sequences(dataset.items("val")).values()
    assert dataset.label(boat[0]).ravel().tolist()[:4] == [1, 1, 1, 0]
    assert dataset.objects(boat) == 1
    assert dataset.predicted(np.array([[0, 2, 255]], np.uint8)).tolist() == [[0, 1, 1]]


def test_the_list_of_the_package_of_2016(davis):
    lists = davis / "DAVIS" / "ImageSets"
    (lists / "2016" / "val.txt").unlink()
    rows = [f"/JPEGImages/480p/{n}/{i:05}.jpg /Annotations/480p/{n}/{i:05}.png" for n in ("cow", "ant") for i in range(3)]
    write_list(lists / "480p" / "val.txt", *rows)
    dataset = load_dataset("davis2016", davis)
    assert list(dataset.sequences(dataset.items("val"))) == ["cow", "ant"]
    with pytest.raises(UserError, match=r"ImageSets/2016/train.txt is missing; run `densebench data get davis2016`"):
        dataset.items("train")


def first_frames(dataset):
    return next(iter(dataset.sequences(dataset.items(dataset.val_split)).values()))


def test_frames_in_another_order_than_the_video_s_are_refused(tmp_path):
    write_videos(tmp_path, {"a": [(1,)] * 12})
    for kind in ("JPEGImages", "Annotations"):
        for path in sorted((tmp_path / kind / "480p/a").iterdir()):
            path.rename(path.with_stem(str(int(path.stem))))
    with pytest.raises(UserError, match=r"unequal widths .*0\.(png|jpg), 1\.(png|jpg), \.\.\..*pad the numbers"):
        load_dataset(f"frames:{tmp_path}").items("all")


def test_masks_of_2016_are_no_masks_of_2017(davis):
    write_mask(davis / "DAVIS/Annotations/480p", "boat/00000", 255, 255)
    dataset = load_dataset("davis2017", davis)
    with pytest.raises(UserError, match=r"boat/00000.png holds 255 and no object's id.*--dataset davis2016"):
        dataset.objects(first_frames(dataset))
    other = load_dataset("davis2016", davis)
    assert other.objects(first_frames(other)) == 1


def test_a_first_mask_without_an_object(davis):
    write_mask(davis / "DAVIS/Annotations/480p", "boat/00000")
    with pytest.raises(UserError, match=r"first mask .*boat/00000.png shows no object: its values are \[0\]"):
        dataset = load_dataset("davis2017", davis)
        dataset.objects(first_frames(dataset))


def test_frames_and_masks_belong_together(davis):
    dataset = load_dataset("davis2017", davis)
    mask = davis / "DAVIS/Annotations/480p/ant/00002.png"
    kept = mask.read_bytes()
    mask.unlink()
    with pytest.raises(UserError, match=r"frame .*ant/00002.jpg has no mask .*Annotations/480p/ant/00002.png; run `densebench"):
        dataset.items("val")
    mask.write_bytes(kept)
    (davis / "DAVIS/JPEGImages/480p/ant/00001.jpg").unlink()
    with pytest.raises(UserError, match=r"mask .*ant/00001.png has no frame"):
        dataset.items("val")
    write_list(davis / "DAVIS/ImageSets/2017/val.txt", "boat", "eel")
    with pytest.raises(UserError, match=r"folder .*Annotations/480p/eel is missing"):
        dataset.items("val")
    write_list(davis / "DAVIS/ImageSets/2017/val.txt", "boat", "boat")
    with pytest.raises(UserError, match=r"lists the sequence boat twice in val"):
        dataset.items("val")
    (davis / "DAVIS/ImageSets/2017/val.txt").unlink()
    with pytest.raises(UserError, match=r"ImageSets/2017/val.txt is missing; run `densebench data get davis2017`"):
        dataset.items("val")


def test_broken_masks_are_named(davis):
    dataset = load_dataset("davis2017", davis)
    [item, *_] = dataset.items("val")
    write_mask(davis / "DAVIS/Annotations/480p", "boat/00000", 1, size=(5, 4))
    with pytest.raises(UserError, match=r"boat/00000.png is 5 x 4 but its image .* is 6 x 4"):
        dataset.label(item)
    item.label.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"boat/00000.png cannot be decoded"):
        dataset.label(item)
    Image.new("RGB", SIZE).save(item.label)
    with pytest.raises(UserError, match=r"boat/00000.png has mode RGB"):
        dataset.label(item)


def test_digests_cover_frames_masks_and_their_meaning(davis):
    dataset, older = load_dataset("davis2017", davis), load_dataset("davis2016", davis)
    items = dataset.part("val", None)
    before = dataset.digest("val", items)
    assert before == dataset.digest("val", items) != dataset.digest("val", items[:-1])
    assert dataset.label_digest(items[0]) != older.label_digest(items[0])
    write_mask(davis / "DAVIS/Annotations/480p", "ant/00003", 1, 1)
    between = dataset.digest("val", items)
    write_frame(davis / "DAVIS/JPEGImages/480p", "ant/00003", 99)
    assert len({before, between, dataset.digest("val", items)}) == 3


def test_verify(davis):
    problems = load_dataset("davis2017", davis).verify()
    assert problems == [
        "train: 3 of the official 4209 images",
        "val: 7 of the official 1999 images",
        "train: 1 of the official 60 sequences",
        "val: 2 of the official 30 sequences",
    ]
    (davis / "DAVIS/Annotations/480p/ant/00002.png").write_bytes(b"")
    assert any("ant/00002.png cannot be decoded" in line for line in load_dataset("davis2017", davis).verify(full=True))


def test_a_data_set_travels_to_another_process(davis):
    dataset = load_dataset(f"frames:{davis / 'DAVIS'}")
    other = pickle.loads(pickle.dumps(dataset))
    assert other == dataset and other.items("val") == dataset.items("val")


@pytest.mark.parametrize("between", ["480p", "Full-Resolution", ""])
def test_frames_of_one_s_own_in_any_resolution(tmp_path, between):
    write_videos(tmp_path, {"b": [(1,), (1,), (0,)], "a": [(2,), (1,), (1,)]}, between)
    dataset = load_dataset(f"frames:{tmp_path}")
    assert dataset.splits == ("all",) and dataset.val_split == dataset.train_split == "all"
    assert list(dataset.sequences(dataset.items("all"))) == ["a", "b"]
    assert dataset.facts() == {"mapping": "frames-ids-v1"}
    assert dataset.kind == "videos" and dataset.name == f"frames:{tmp_path}"


def test_frames_of_one_s_own_with_lists(davis):
    dataset = load_dataset(f"frames:{davis / 'DAVIS'}")
    assert (dataset.splits, dataset.train_split, dataset.val_split) == (("train", "val"), "train", "val")
    assert dataset.lists == davis / "DAVIS/ImageSets/2017"
    write_list(davis / "DAVIS" / "ImageSets" / "mine.txt", "cow")
    dataset = load_dataset(f"frames:{davis / 'DAVIS'}")
    assert dataset.splits == ("mine",) and list(dataset.sequences(dataset.items("mine"))) == ["cow"]


def test_frames_of_one_s_own_that_cannot_be_told(tmp_path):
    with pytest.raises(UserError, match=r"folder .*JPEGImages is missing"):
        load_dataset(f"frames:{tmp_path}")
    for between in ("720p", "1080p"):
        write_videos(tmp_path, {"a": [(1,)] * 3}, between)
    with pytest.raises(UserError, match=r"several resolutions, 1080p, 720p, and no 480p"):
        load_dataset(f"frames:{tmp_path}")
    write_videos(tmp_path, {"a": [(1,)] * 3})
    dataset = load_dataset(f"frames:{tmp_path}")
    assert dataset.resolution == "480p"
    write_mask(tmp_path / "Annotations/480p", "a/00000", 255)
    with pytest.raises(UserError, match=r"shows no object: its values are \[0, 255\]; objects have ids from 1"):
        dataset.objects(first_frames(dataset))
    Image.new("RGB", SIZE).save(tmp_path / "JPEGImages/480p/a/00001.png")
    with pytest.raises(UserError, match="two files in .* are called 00001; remove one"):
        dataset.items("all")


def test_the_real_sequences(shared_data):
    dataset = load_dataset("davis2016", shared_data)
    sequences = dataset.sequences(dataset.items("val"))
    assert {name: len(frames) for name, frames in sequences.items()} == {
        "blackswan": 50, "car-shadow": 40, "drift-straight": 50, "horsejump-high": 50, "kite-surf": 50, "libby": 49,
        "motocross-jump": 40, "scooter-black": 43,
    }  # fmt: skip
    assert [dataset.objects(frames) for frames in sequences.values()] == [1] * 8
    frames = sequences["blackswan"]
    assert dataset.image_size(frames[0]) == (854, 480) and 0.05 < dataset.label(frames[0]).mean() < 0.2
    own = load_dataset(f"frames:{shared_data / 'DAVIS'}")
    assert list(own.sequences(own.items("val"))) == list(sequences)
    with pytest.raises(UserError, match=r"its values are \[0, 255\]"):
        own.objects(frames)
    with pytest.raises(UserError, match="one of DAVIS 2016"):
        load_dataset("davis2017", shared_data).objects(frames)
