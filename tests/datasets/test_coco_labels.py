"""The coarse classes of COCO: from panoptic files and from pixel maps."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_files import grid, save_image, save_mask, save_text

from densebench.datasets import load_dataset
from densebench.errors import UserError

THING_NAMES = [
    "accessory", "animal", "appliance", "electronic", "food", "furniture", "indoor", "kitchen", "outdoor", "person", "sports",
    "vehicle",
]  # fmt: skip

STUFF_NAMES = [
    "building", "ceiling", "floor", "food-stuff", "furniture-stuff", "ground", "plant", "raw-material", "sky", "solid",
    "structural", "textile", "wall", "water", "window",
]  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    """Two images of 4 x 6; thing category i has id i + 1, stuff category i has id i + 92, in reverse order of their names."""
    things = [{"id": i + 1, "isthing": 1, "supercategory": name} for i, name in enumerate(reversed(THING_NAMES))]
    stuff = [{"id": i + 92, "isthing": 0, "supercategory": name} for i, name in enumerate(reversed(STUFF_NAMES))]
    segments = [
        {"id": 3 + 256 * 5 + 65536 * 7, "category_id": 1, "iscrowd": 0},  # vehicle
        {"id": 9, "category_id": 12, "iscrowd": 1},  # accessory
        {"id": 300, "category_id": 92, "iscrowd": 0},  # window
    ]
    annotations = [{"file_name": f"{name}.png", "image_id": 1, "segments_info": segments} for name in ("2", "1")]
    folder = tmp_path / "coco"
    for split in ("train", "val"):
        save_text(
            folder / "annotations" / f"panoptic_{split}2017.json",
            json.dumps({"categories": things + stuff, "annotations": annotations}),
        )
        for name in ("1", "2"):
            save_image(folder / f"{split}2017" / f"{name}.jpg")
            png = np.zeros((4, 6, 3), np.uint8)
            png[0, :3] = (3, 5, 7), (9, 0, 0), (44, 1, 0)
            save_mask(folder / "annotations" / f"panoptic_{split}2017" / f"{name}.png", png)
    return tmp_path


def test_coco_things_and_stuff_from_panoptic_files(coco):
    things, stuff = load_dataset("coco-things", coco), load_dataset("coco-stuff", coco)
    assert list(things.classes) == THING_NAMES and list(stuff.classes) == STUFF_NAMES
    items = things.items("val")
    assert [item.name for item in items] == ["1", "2"] == [item.name for item in stuff.items("val")]
    assert things.label(items[0]).ravel()[:5].tolist() == [11, 0, 255, 255, 255]
    assert stuff.label(items[0]).ravel()[:5].tolist() == [255, 255, 14, 255, 255]
    assert things.label(items[0]).dtype == np.uint8
    assert stuff.labels_from == stuff.facts()["labels_from"] == "panoptic"
    assert things.label_digest(items[0]) != stuff.label_digest(items[0])
    assert things.presence(items).sum(0).tolist() == [2, *[0] * 10, 2]
    save_mask(items[0].label, np.full((4, 6, 3), 1, np.uint8))
    with pytest.raises(UserError, match=r"1.png holds the segment 65793, which .*panoptic_val2017.json lacks"):
        things.label(items[0])
    save_mask(items[0].label, np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(UserError, match=r"1.png is 6 x 5 but its image"):
        things.label(items[0])


def test_the_panoptic_json_is_part_of_the_label_digest(coco):
    dataset = load_dataset("coco-things", coco)
    item = dataset.items("val")[0]
    before = dataset.label_digest(item)
    path = coco / "coco" / "annotations" / "panoptic_val2017.json"
    text = path.read_text()
    path.write_text(text.replace('"category_id": 12', '"category_id": 11'))
    assert dataset.label_digest(item) != before
    assert dataset.label(item).ravel()[1] == 1
    path.write_text(text.replace('"vehicle"', '"car"'))
    with pytest.raises(UserError, match=r"has the supercategories accessory, .*car.* not the official"):
        dataset.label(item)
    path.write_text("{}")
    with pytest.raises(UserError, match="is no COCO panoptic file"):
        dataset.items("val")
    path.unlink()
    with pytest.raises(UserError, match=r"panoptic_val2017.json is missing; run `densebench data get coco-things`"):
        dataset.items("val")


def test_coco_stuff_prefers_the_pixel_maps(coco):
    folder = coco / "coco" / "annotations"
    dataset = load_dataset("coco-stuff", coco)
    from_panoptic = dataset.items("val")[0]
    digest_before, label_before = dataset.label_digest(from_panoptic), dataset.label(from_panoptic)
    categories = [{"id": i + 92, "supercategory": name} for i, name in enumerate(STUFF_NAMES)]
    save_text(folder / "stuff_val2017.json", json.dumps({"categories": [*categories, {"id": 183, "supercategory": "other"}]}))
    save_mask(folder / "stuff_val2017_pixelmaps" / "2.png", grid(0, 92, 106, 183))
    assert dataset.labels_from == "pixelmaps"
    (item,) = dataset.items("val")
    assert dataset.label(item).ravel()[:5].tolist() == [255, 0, 14, 255, 255]
    assert dataset.facts()["labels_from"] == "pixelmaps"
    assert dataset.label_digest(item) != digest_before
    assert (dataset.label(from_panoptic) == label_before).all()
    with pytest.raises(UserError, match="stuff_train2017_pixelmaps is missing"):  # the two sources are never mixed
        dataset.items("train")
    save_mask(item.label, grid(1))
    with pytest.raises(UserError, match="value 1,"):
        dataset.label(item)
