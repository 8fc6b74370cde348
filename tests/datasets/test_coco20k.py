"""COCO-20k: the images of a list, without crowds, with corners rounded as LOST does it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from coco_files import CATEGORIES, instance
from dataset_files import save_image, save_text

from densebench.datasets import load_dataset
from densebench.datasets.coco_boxes import LIST_20K
from densebench.errors import UserError

IMAGES = {9: (60, 40), 4: (50, 80), 7: (32, 32)}
ANNOTATIONS = [
    instance(9, 90, (10.5, 20.4, 5.0, 7.25)),
    instance(4, 1, (0, 0, 50, 80), crowd=1),
    instance(9, 13, (11.5, 1.5, 2, 3)),
    instance(9, 1, (30.1, 10, 0.2, 5)),
    instance(4, 2, (3.49, 4.51, 10, 1)),
    instance(7, 1, (0, 0, 5, 5)),
]


def name_of(number):
    return f"COCO_train2014_{number:012}"


def write(root, listed, images=IMAGES, annotations=ANNOTATIONS):
    entries = []
    for number, (width, height) in images.items():
        save_image(root / "coco" / "train2014" / f"{name_of(number)}.jpg", height, width)
        entries.append({"id": number, "file_name": f"{name_of(number)}.jpg", "width": width, "height": height})
    content = {"images": entries, "annotations": annotations, "categories": CATEGORIES}
    save_text(root / "coco" / "annotations" / "instances_train2014.json", json.dumps(content))
    save_text(root / LIST_20K, "".join(f"{line}\n" for line in listed))
    return load_dataset("coco20k", root)


@pytest.fixture
def coco(tmp_path):
    return write(tmp_path, [f"train2014/{name_of(9)}.jpg", f"train2014/{name_of(4)}.jpg"])


def test_items_are_the_listed_images_by_id(coco, tmp_path):
    assert [item.name for item in coco.items("train")] == [name_of(4), name_of(9)]
    assert [coco.image(item).size for item in coco.items("train")] == [(50, 80), (60, 40)]
    again = write(tmp_path / "bare", [f"{name_of(9)}.jpg"])
    assert [item.name for item in again.items("train")] == [name_of(9)]


def test_corners_by_hand(coco):
    first, second = (coco.objects(item) for item in coco.items("train"))
    assert first.boxes.tolist() == [[3, 5, 13, 6]] and not first.crowd.any()  # the crowd is gone
    # 10.5 -> 10 and 15.5 -> 16: halves go to the even number; the narrow box is empty and left out
    assert second.boxes.tolist() == [[10, 20, 16, 28], [12, 2, 14, 4]]
    assert [coco.classes[c] for c in second.classes] == ["toothbrush", "stop sign"]
    assert second.masks == (ANNOTATIONS[0]["segmentation"], ANNOTATIONS[2]["segmentation"])
    assert coco.truth(coco.items("train")[1]).boxes.tolist()[2] == [30, 10, 30, 15]


def test_corners_are_those_of_a_naive_loop(tmp_path):
    rng = np.random.default_rng(0)
    boxes = (rng.integers(0, 160, (40, 4)) / 8 + [0, 0, 0.5, 0.5]).tolist()
    annotations = [instance(9, 1, box, crowd=int(rng.random() < 0.2)) for box in boxes]
    coco = write(tmp_path, [f"{name_of(9)}.jpg"], annotations=annotations)
    expected = [
        [int(round(value)) for value in (x, y, x + w, y + h)]  # noqa: RUF046
        for (x, y, w, h), one in zip(boxes, annotations, strict=True)
        if not one["iscrowd"]
    ]
    kept = [box for box in expected if box[0] < box[2] and box[1] < box[3]]
    [item] = coco.items("train")
    assert coco.truth(item).boxes.tolist() == expected
    assert coco.objects(item).boxes.tolist() == kept


def test_the_mapping_is_another_than_that_of_coco_boxes(coco):
    assert coco.mapping != load_dataset("coco-boxes").mapping
    assert coco.official_images("train") == 19817
    assert coco.verify(full=True) == ["train: 2 of the official 19817 images"]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (["train2014/COCO_train2014_000000000001.jpg"], "about which .* says nothing"),
        ([f"{name_of(9)}.jpg", f"train2014/{name_of(9)}.jpg"], "line 2, names .* a second time"),
        (["../../COCO_train2014_000000000009.jpg"], "leaves its folder"),
        ([], "has no image in split"),
    ],
)
def test_a_wrong_list_is_one_line(tmp_path, listed, message):
    with pytest.raises(UserError, match=message) as error:
        write(tmp_path, listed).items("train")
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named(tmp_path):
    coco = write(tmp_path, [f"{name_of(9)}.jpg"])
    (tmp_path / LIST_20K).unlink()
    with pytest.raises(UserError, match=r"coco_20k_filenames.txt is missing; run `densebench data get coco20k`"):
        coco.items("train")
