"""Boxes and masks of COCO: made-up files in the official layout, objects by hand and by a loop, errors that name the file."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from coco_files import CATEGORIES, instance, write_coco
from PIL import Image

from densebench.datasets import load_dataset
from densebench.errors import UserError


def touch(path):
    """Let a file that was written again be newer, whatever the clock of the file system."""
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


def said(error):
    """An error for people: one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


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
        objects = dataset.objects(item)
        columns = objects.boxes.tolist(), objects.classes, objects.crowd.tolist(), objects.areas.tolist(), objects.masks
        rows = zip(*columns, strict=True)
        assert [(box, dataset.classes[c], crowd, area, mask) for box, c, crowd, area, mask in rows] == expected
        kept += len(expected)
    assert 0 < dataset.dropped("train") == len(annotations) - kept


def test_coco_categories_of_the_file_decide(tmp_path):
    renumbered = [{"id": 500 - category["id"], "name": category["name"]} for category in reversed(CATEGORIES)]
    write_coco(tmp_path, "train", IMAGES, [instance(9, 500 - 90, (1, 2, 3, 4))], renumbered)
    dataset = load_dataset("coco-boxes", tmp_path)
    assert [dataset.classes[c] for c in dataset.objects(dataset.items("train")[2]).classes] == ["toothbrush"]


def test_coco_is_parsed_once_and_again_when_it_changes(coco, tmp_path, monkeypatch):
    parsed, loads = [], json.loads

    def spy(text, **more):
        parsed.extend(["whole file"] if "object_hook" in more else [])
        return loads(text, **more)

    monkeypatch.setattr(json, "loads", spy)
    before = coco.objects(coco.items("train")[2])
    shutil.copytree(tmp_path / "coco", tmp_path / "copy" / "coco")  # the same bytes, as another process would meet them
    for dataset in (coco, load_dataset("coco-boxes", tmp_path / "copy")):
        assert dataset.objects(dataset.items("train")[2]).boxes.tolist() == before.boxes.tolist()
    assert parsed == ["whole file"]
    touch(write_coco(tmp_path, "train", IMAGES, [instance(9, 1, (1, 2, 3, 4))]))
    assert coco.objects(coco.items("train")[2]).boxes.tolist() == [[1, 2, 4, 6]]
    assert len(parsed) == 2


def test_what_is_done_to_objects_does_not_reach_others(coco):
    item = coco.items("train")[2]
    coco.objects(item).boxes[:] = 0
    assert coco.objects(item).boxes[0].tolist() == [10, 20, 15.5, 27.25]


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
