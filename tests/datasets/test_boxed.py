"""Data sets with boxes: official layouts made up small, boxes in px of the image, errors that name the file."""

from __future__ import annotations

import itertools
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from coco_files import CATEGORIES, instance, write_coco
from PIL import Image

import densebench.datasets.io.digests as digests_module
from densebench.datasets import load_dataset, uavdt
from densebench.datasets.io import instances
from densebench.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    digests_module.shared_digests.cache_clear()


def touch(path):
    """Let a file that was written again be newer, whatever the clock of the file system."""
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


def said(error):
    """An error for people: one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


# COCO

IMAGES = {9: (60, 40), 4: (50, 80), 7: (32, 32)}
RUNS = {"size": [80, 50], "counts": "abc01"}
ANNOTATIONS = [
    instance(9, 90, (10, 20, 5.5, 7.25)),
    instance(4, 1, (0, 0, 50, 80), crowd=1, segmentation={"size": [80, 50], "counts": [0, 4000]}),
    instance(9, 13, (-4, 30, 20, 30), area=7),
    instance(9, 1, (60, 10, 5, 5)),  # outside
    instance(4, 2, (3, 4, 10, 0)),  # empty
    instance(4, 2, (3, 4, 10, 1), segmentation=RUNS),
]


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path, "train", IMAGES, ANNOTATIONS)
    write_coco(tmp_path, "val", {1: (8, 8)}, [])
    return load_dataset("coco-boxes", tmp_path)


def test_coco_items_are_all_images_by_id(coco):
    items = coco.items("train")
    assert [item.name for item in items] == [f"{number:012}" for number in (4, 7, 9)]
    assert all(item.image.is_file() and item.label is None for item in items)
    assert coco.image(items[2]).size == (60, 40)
    assert coco.kind == "boxes" and coco.has_masks


def test_coco_objects_by_hand(coco):
    first, second, third = (coco.objects(item) for item in coco.items("train"))
    assert len(second) == 0 and second.boxes.shape == (0, 4) and second.masks == ()
    # Clipped to the left and below; the one outside is gone; the order is the file's.
    assert third.boxes.tolist() == [[10, 20, 15.5, 27.25], [0, 30, 16, 40]]
    assert [coco.classes[c] for c in third.classes] == ["toothbrush", "stop sign"]
    assert third.areas.tolist() == [5.5 * 7.25 / 2, 7] and not third.crowd.any()
    assert third.masks[0] == ANNOTATIONS[0]["segmentation"]
    assert first.boxes.tolist() == [[0, 0, 50, 80], [3, 4, 13, 5]]
    assert first.crowd.tolist() == [True, False]
    assert first.masks == ({"size": [80, 50], "counts": [0, 4000]}, RUNS)
    assert [coco.classes[c] for c in first.classes] == ["person", "bicycle"]
    assert coco.dropped("train") == 2 and coco.dropped("val") == 0


def test_coco_every_box_is_that_of_a_naive_loop(tmp_path):
    rng = np.random.default_rng(0)
    images = {int(n): (int(w), int(h)) for n, w, h in zip(rng.permutation(20), *rng.integers(10, 60, (2, 20)), strict=True)}
    ids = [category["id"] for category in CATEGORIES]
    annotations = [
        instance(int(rng.choice(list(images))), int(rng.choice(ids)), rng.uniform((-30, -30, 0, 0), (70, 70, 40, 40)).tolist(),
                 crowd=int(rng.random() < 0.2))
        for _ in range(150)
    ]  # fmt: skip
    write_coco(tmp_path, "train", images, annotations)
    dataset = load_dataset("coco-boxes", tmp_path)
    kept = 0
    for item in dataset.items("train"):
        number = int(item.name)
        width, height = images[number]
        expected = []
        for one in annotations:
            x, y, w, h = one["bbox"]
            box = [min(max(x, 0), width), min(max(y, 0), height), min(max(x + w, 0), width), min(max(y + h, 0), height)]
            if one["image_id"] == number and box[0] < box[2] and box[1] < box[3]:
                name = next(category["name"] for category in CATEGORIES if category["id"] == one["category_id"])
                expected.append((box, name, bool(one["iscrowd"]), one["area"], one["segmentation"]))
        found = dataset.objects(item)
        rows = zip(found.boxes.tolist(), found.classes, found.crowd.tolist(), found.areas.tolist(), found.masks, strict=True)
        assert [(box, dataset.classes[c], crowd, area, mask) for box, c, crowd, area, mask in rows] == expected
        kept += len(expected)
    assert 0 < dataset.dropped("train") == len(annotations) - kept


def test_coco_categories_of_the_file_decide(tmp_path):
    renumbered = [{"id": 500 - category["id"], "name": category["name"]} for category in reversed(CATEGORIES)]
    write_coco(tmp_path, "train", IMAGES, [instance(9, 500 - 90, (1, 2, 3, 4))], renumbered)
    dataset = load_dataset("coco-boxes", tmp_path)
    assert [dataset.classes[c] for c in dataset.objects(dataset.items("train")[2]).classes] == ["toothbrush"]


def test_coco_is_parsed_once_and_again_when_it_changes(coco, tmp_path, monkeypatch):
    parsed = []
    real = instances._packed
    monkeypatch.setattr(instances, "_packed", lambda path: (parsed.append(path), real(path))[1])
    item = coco.items("train")[2]
    for _ in range(3):
        before = coco.objects(item)
        instances._read.cache_clear()  # as another process
    assert len(parsed) == 1
    before.boxes[:] = 0  # what one caller does to its boxes is not another's
    assert coco.objects(item).boxes[0].tolist() == [10, 20, 15.5, 27.25]
    touch(write_coco(tmp_path, "train", IMAGES, [instance(9, 1, (1, 2, 3, 4))]))
    assert coco.objects(item).boxes.tolist() == [[1, 2, 4, 6]]
    assert len(parsed) == 2


def test_coco_digests_follow_the_objects_of_the_image_alone(coco, tmp_path):
    items = coco.items("train")
    before = coco.label_digests(items)
    changes = [("bbox", [10, 20, 5.5, 7]), ("category_id", 2), ("iscrowd", 1), ("area", 3.5), ("segmentation", RUNS)]
    for seconds, (key, value) in enumerate(changes):
        path = write_coco(tmp_path, "train", IMAGES, [{**ANNOTATIONS[0], key: value}, *ANNOTATIONS[1:]])
        os.utime(path, ns=(seconds, seconds))
        after = coco.label_digests(items)
        assert after[:2] == before[:2] and after[2] != before[2], key


def test_coco_survives_a_process_boundary(coco):
    again = pickle.loads(pickle.dumps(coco))
    item = coco.items("train")[2]
    assert again.objects(item).boxes.tolist() == coco.objects(item).boxes.tolist()


def test_coco_verify_names_what_is_wrong(coco, tmp_path):
    folder = tmp_path / "coco" / "train2017"
    (folder / f"{7:012}.jpg").write_bytes(b"no image")
    Image.new("RGB", (61, 40)).save(folder / f"{9:012}.jpg")
    problems = "\n".join(coco.verify(full=True))
    assert "3 of the official 118287 images" in problems
    assert f"{7:012}.jpg cannot be" in problems
    assert "is 61 x 40 but" in problems and "says 60 x 40" in problems


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, "has objects of image 8, which it does not list"),
        ({"category_id": 12}, "has objects of category 12, which it does not list"),
        ({"bbox": [1, 2, 3]}, "is no COCO instances file"),
        ({"bbox": [1, 2, "x", 3]}, "is no COCO instances file"),
        ({"bbox": [1, 2, float("nan"), 3]}, "not a finite number"),
        ({"area": float("inf")}, "not a finite number"),
        ({"iscrowd": None}, "is no COCO instances file"),
        ({"iscrowd": 2}, "iscrowd is 2"),
    ],
)
def test_coco_refuses_broken_annotations(tmp_path, change, message):
    path = write_coco(tmp_path, "train", IMAGES, [{**ANNOTATIONS[0], **change}])
    with pytest.raises(UserError) as error:
        load_dataset("coco-boxes", tmp_path).items("train")
    assert message in said(error) and str(path) in said(error)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "iscrowd", "area", "segmentation"])
def test_coco_refuses_annotations_that_lack_something(tmp_path, key):
    write_coco(tmp_path, "train", IMAGES, [{name: value for name, value in ANNOTATIONS[0].items() if name != key}])
    with pytest.raises(UserError, match=f"is no COCO instances file .*{key}"):
        load_dataset("coco-boxes", tmp_path).items("train")


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"images": []}', '{"images": 3, "annotations": [], "categories": []}', "\xff"])
def test_coco_refuses_what_is_no_instances_file(coco, tmp_path, text):
    path = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    path.write_text(text, encoding="latin-1")
    touch(path)
    with pytest.raises(UserError) as error:
        coco.items("train")
    assert "is no COCO instances file" in said(error) and str(path) in said(error)


def test_coco_refuses_doubles_and_other_categories(tmp_path):
    path = write_coco(tmp_path, "train", IMAGES, ANNOTATIONS[:1])
    dataset = load_dataset("coco-boxes", tmp_path)
    content = json.loads(path.read_text())
    for doubled in ({**content["images"][0], "file_name": "x.jpg"}, {**content["images"][0], "id": 77}):
        path.write_text(json.dumps({**content, "images": [*content["images"], doubled]}))
        touch(path)
        with pytest.raises(UserError, match="two images have one id or one name"):
            dataset.items("train")
    for number, categories in enumerate((CATEGORIES[:-1], [*CATEGORIES[:-1], {"id": 90, "name": "tooth brush"}])):
        path.write_text(json.dumps({**content, "annotations": [], "categories": categories}))
        os.utime(path, ns=(number, number))
        with pytest.raises(UserError, match=r"not the official 80 \(the first that differs is toot?h"):
            dataset.objects(dataset.items("train")[0])


def test_coco_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"instances_val2017.json is missing; run `densebench data get coco-boxes`"):
        load_dataset("coco-boxes", tmp_path).items("val")


def test_coco_says_which_image_is_missing_or_of_another_size(coco, tmp_path):
    item = coco.items("train")[2]
    Image.new("RGB", (40, 60)).save(item.image)
    with pytest.raises(UserError, match=r"is 40 x 60 but .*instances_train2017.json says 60 x 40"):
        coco.image(item)
    item.image.unlink()
    with pytest.raises(UserError, match=f"{item.name}.jpg is missing"):
        coco.image(item)


def test_boxes_are_no_label_maps(coco):
    with pytest.raises(UserError, match="coco-boxes has boxes, no label maps"):
        coco.label(coco.items("train")[0])


def test_coco_real(shared_data):
    dataset = load_dataset("coco-boxes", shared_data)
    for split, objects, empty in (("train", 746, 2), ("val", 712, 0)):
        found = [dataset.objects(item) for item in dataset.items(split)]
        assert (len(found), sum(map(len, found)), sum(not len(one) for one in found)) == (100, objects, empty)
        assert dataset.dropped(split) == 0
        assert all((one.areas <= np.prod(one.boxes[:, 2:] - one.boxes[:, :2], axis=1) + 1e-6).all() for one in found)


# ImageNet

BOXES = "ILSVRC/Annotations/CLS-LOC"
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def write_xml(path, size, objects, head=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(OBJECT.format(*one) for one in objects)
    path.write_text(f"{head}<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{body}</annotation>")


def save_image(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 99, 199)).save(path, format="JPEG")


def write_imagenet(root, images="ILSVRC/Data/CLS-LOC", by_class=False):
    for name, size, objects in (
        ("n02_7", (40, 20), [("n02", 4, 5, 30, 15), ("n01", 0, 0, 2, 2)]),
        ("n01_3", (30, 60), [("n01", 10, 10, 20, 40)]),
    ):
        write_xml(root / BOXES / "train" / name[:3] / f"{name}.xml", size, objects)
        save_image(root / images / "train" / name[:3] / f"{name}.JPEG", size)
    save_image(root / images / "train" / "n01" / "n01_4.JPEG", (5, 5))  # without boxes
    for number, wnid in ((2, "n01"), (1, "n02")):
        name = f"ILSVRC2012_val_{number:08}"
        write_xml(root / BOXES / "val" / f"{name}.xml", (50, 50), [(wnid, 1, 2, 3, 4)])
        save_image(root / images / "val" / (wnid if by_class else "") / f"{name}.JPEG", (50, 50))
    return load_dataset("imagenet-boxes", root)


@pytest.mark.parametrize(
    ("images", "by_class"), list(itertools.product(("ILSVRC/Data/CLS-LOC", "ILSVRC2012", "imagenet"), (False, True)))
)
def test_imagenet_layouts(tmp_path, images, by_class):
    dataset = write_imagenet(tmp_path, images, by_class)
    assert dataset.classes == ("n01", "n02")
    assert [item.name for item in dataset.items("train")] == ["n01_3", "n02_7"]
    assert [item.name[-1] for item in dataset.items("val")] == ["1", "2"]
    for split in ("train", "val"):
        assert [dataset.image(item).size for item in dataset.items(split)] == [
            dataset.image_size(item) for item in dataset.items(split)
        ]
    assert dataset.state() == "present"
    assert [line for line in dataset.verify(full=True) if "official" not in line] == []
    second = dataset.objects(dataset.items("train")[1])
    assert second.boxes.tolist() == [[4, 5, 30, 15], [0, 0, 2, 2]]
    assert second.classes.tolist() == [1, 0] and second.areas.tolist() == [260, 4] and not second.crowd.any()
    assert [dataset.objects(item).classes.tolist() for item in dataset.items("val")] == [[1], [0]]


def test_imagenet_boxes_are_scaled_from_the_size_shown_put_right_and_clipped(tmp_path):
    dataset = write_imagenet(tmp_path)
    item = dataset.items("train")[0]  # 30 x 60, shown as 15 x 120
    corners = [("n01", 5, 20, 10, 80), ("n02", 10, 80, 5, 20), ("n01", -3, 100, 99, 130.5), ("n01", 4, 7, 4, 90)]
    write_xml(item.label, (15, 120), corners)
    found = dataset.objects(item)
    assert found.boxes.tolist() == [[10, 10, 20, 40], [10, 10, 20, 40], [0, 50, 30, 60]]
    assert found.classes.tolist() == [0, 1, 0]
    write_xml(item.label, (30, 60), [])
    assert dataset.objects(item).boxes.shape == (0, 4)


@pytest.mark.parametrize("place", ["LOC_synset_mapping.txt", "ILSVRC/LOC_synset_mapping.txt"])
def test_imagenet_classes_are_those_of_the_mapping(tmp_path, place):
    write_imagenet(tmp_path)
    (tmp_path / place).write_text("n02 great white shark, man-eater\nn00 cock\n\nn01 tench, Tinca tinca\n")
    dataset = load_dataset("imagenet-boxes", tmp_path)
    assert dataset.classes == ("n00", "n01", "n02")
    assert dataset.objects(dataset.items("train")[1]).classes.tolist() == [2, 1]


def test_imagenet_digests_follow_the_annotation_and_the_size(tmp_path):
    dataset = write_imagenet(tmp_path)
    items = dataset.items("train")
    before = dataset.label_digests(items)
    write_xml(items[0].label, (30, 60), [("n01", 10, 10, 20, 41)])
    after = dataset.label_digests(items)
    assert after[0] != before[0] and after[1] == before[1]


BOMB = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;">]>'
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/hostname">'


@pytest.mark.parametrize(
    ("size", "objects", "head", "message"),
    [
        ((30, 60), [("n05", 1, 2, 3, 4)], "", "n05 is none of its 2 classes"),
        ((30, 60), [("n01", 1, "x", 3, 4)], "", "could not convert"),
        ((30, 60), [("n01", 1, "nan", 3, 4)], "", "bndbox/ymin is nan"),
        ((0, 60), [], "", "its size is 0 x 60"),
        ((30, 60), [], BOMB, "declares a document type"),
        ((30, 60), [], OUTSIDE, "declares a document type"),
        ((30, 60), [], "<a>", "is no annotation of ImageNet"),
    ],
)
def test_imagenet_refuses_broken_annotations(tmp_path, size, objects, head, message):
    dataset = write_imagenet(tmp_path)
    item = dataset.items("train")[0]
    write_xml(item.label, size, objects, head)
    with pytest.raises(UserError, match=message) as error:
        dataset.objects(item)
    assert str(item.label) in said(error) and "fetch it again" in said(error)


def test_imagenet_refuses_annotations_that_lack_something(tmp_path):
    dataset = write_imagenet(tmp_path)
    item = dataset.items("train")[0]
    whole = item.label.read_text()
    for tag in ("width", "height", "name", "xmin", "ymin", "xmax", "ymax"):
        start, end = whole.index(f"<{tag}>"), whole.index(f"</{tag}>") + len(tag) + 3
        item.label.write_text(whole[:start] + whole[end:])
        with pytest.raises(UserError, match=f"lacks .*{tag}"):
            dataset.objects(item)


def test_imagenet_says_what_is_missing(tmp_path):
    dataset = load_dataset("imagenet-boxes", tmp_path)
    assert dataset.classes == ()
    with pytest.raises(UserError, match=r"no folder ILSVRC2012/train or imagenet/train or .* see `densebench data get imagenet"):
        dataset.items("train")
    dataset = write_imagenet(tmp_path)
    item = dataset.items("train")[0]
    item.label.unlink()
    with pytest.raises(UserError, match=r"n01_3.xml is missing"):
        dataset.objects(item)


# UAVDT


@pytest.fixture
def drone(tmp_path, monkeypatch):
    monkeypatch.setitem(uavdt.VIDEOS, "train", "M0101 M0201")
    monkeypatch.setitem(uavdt.VIDEOS, "test", "M0203")
    for video, nested, frames in (("M0101", "", (1, 2, 10)), ("M0201", "img1", (1,)), ("M0203", "", (1, 2))):
        for frame in frames:
            save_image(tmp_path / "UAV-benchmark-M" / video / nested / f"img{frame:06}.jpg", (100, 50))
        truth = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT"
        truth.mkdir(parents=True, exist_ok=True)
        (truth / f"{video}_gt_whole.txt").write_text("")
        (truth / f"{video}_gt_ignore.txt").write_text("")
    (truth / "M0101_gt_whole.txt").write_text(
        "1,1,10,20,30,5,1,1,1\n10,1,12,20,30,5,1,1,3\n1,2,90,40,30,30,2,1,2\n1,3,100,40,30,30,1,1,2\n"
    )
    (truth / "M0101_gt_ignore.txt").write_text("1,1,0,0,200,10,1,-1,-1\n2,1,5,5,5,5,1,-1,-1,\n")
    return load_dataset("uavdt", tmp_path)


def test_uavdt_frames_are_those_of_the_official_videos_in_order(drone, tmp_path):
    save_image(tmp_path / "UAV-benchmark-M" / "M9999" / "img000001.jpg", (10, 10))
    names = [item.name for item in drone.items("train")]
    assert names == ["M0101/img000001", "M0101/img000002", "M0101/img000010", "M0201/img000001"]
    assert [item.name for item in drone.items("test")] == ["M0203/img000001", "M0203/img000002"]
    assert drone.val_split == "test" and drone.classes == ("vehicle",)


def test_uavdt_objects_by_hand(drone):
    first, second, tenth, other = (drone.objects(item) for item in drone.items("train"))
    # A truck reaches over the corner, another lies outside; the region comes last.
    assert first.boxes.tolist() == [[10, 20, 40, 25], [90, 40, 100, 50], [0, 0, 100, 10]]
    assert first.crowd.tolist() == [False, False, True] and first.classes.tolist() == [0, 0, 0]
    assert first.areas.tolist() == [150, 100, 1000]
    assert second.boxes.tolist() == [[5, 5, 10, 10]] and second.crowd.tolist() == [True]
    assert tenth.boxes.tolist() == [[12, 20, 42, 25]] and not tenth.crowd.any()
    assert len(other) == 0
    assert [line for line in drone.verify(full=True) if "official" not in line] == []


def test_uavdt_digests_follow_the_frame(drone, tmp_path):
    items = drone.items("train")
    before = drone.label_digests(items)
    path = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT" / "M0101_gt_ignore.txt"
    path.write_text("1,1,0,0,200,10,1,-1,-1\n2,1,5,5,5,6,1,-1,-1\n")
    touch(path)
    after = drone.label_digests(items)
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True, True]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("whole", "1,1,10,20,30,5,1,1\n", "line 1 is"),
        ("whole", "\n1,1,10,20,30,5,1,1,4\n", "line 2 has category 4"),
        ("whole", "1,1,10,20,x,5,1,1,1\n", "could not convert"),
        ("whole", "1,1,10,20,nan,5,1,1,1\n", "line 1 is"),
        ("ignore", "1,1,10,20,30\n", "line 1 is"),
    ],
)
def test_uavdt_refuses_broken_annotations(drone, tmp_path, kind, text, message):
    path = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT" / f"M0101_gt_{kind}.txt"
    path.write_text(text)
    touch(path)
    with pytest.raises(UserError, match=message) as error:
        drone.objects(drone.items("train")[0])
    assert str(path) in said(error)


def test_uavdt_says_what_is_missing(drone, tmp_path):
    (tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT" / "M0101_gt_ignore.txt").unlink()
    with pytest.raises(UserError, match=r"M0101_gt_ignore.txt is missing; see `densebench data get uavdt`"):
        drone.objects(drone.items("train")[0])
    with pytest.raises(UserError, match="the folder .*M0101 is missing"):
        load_dataset("uavdt", tmp_path / "elsewhere").items("train")


def test_uavdt_split_is_the_official_one():
    train, test = (uavdt.VIDEOS[split].split() for split in ("train", "test"))
    assert (len(train), len(test), len({*train, *test})) == (30, 20, 50)
    # The lengths that the official evaluation gives for its videos are this many frames.
    assert load_dataset("uavdt", Path()).official_counts == {"train": 40735 - 16592, "test": 16592}


def test_two_videos_have_no_ignored_regions(drone, tmp_path, monkeypatch):
    """The official evaluation has none for M0209 and M0801, whatever files there are."""
    monkeypatch.setitem(uavdt.VIDEOS, "test", "M0209")
    (tmp_path / "UAV-benchmark-M" / "M0203").rename(tmp_path / "UAV-benchmark-M" / "M0209")
    truth = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT"
    (truth / "M0203_gt_whole.txt").rename(truth / "M0209_gt_whole.txt")
    (truth / "M0209_gt_ignore.txt").write_text("1,1,0,0,20,10,1,-1,-1\n")
    first = drone.items("test")[0]
    assert first.name == "M0209/img000001" and not drone.objects(first).crowd.any()
