"""Real images and label maps against plain restatements."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from densebench.datasets import load_dataset


def test_real_voc(shared_data):
    voc = load_dataset("voc", shared_data)
    assert [len(voc.items(split)) for split in voc.splits] == [437, 300, 737, 497]
    assert voc.verify()[0] == "train: 437 of the official 1464 images" and len(voc.verify()) == 4
    counts = {
        "background": 297, "bird": 1, "bottle": 2, "bus": 1, "car": 5, "cat": 74, "chair": 10, "cow": 51, "diningtable": 3,
        "dog": 84, "horse": 57, "motorbike": 3, "person": 67, "pottedplant": 4, "sheep": 38, "sofa": 11, "tvmonitor": 2,
    }  # fmt: skip
    shown = voc.presence(voc.items("val")).sum(0)
    assert {name: count for name, count in zip(voc.classes, shown.tolist(), strict=True) if count} == counts


def test_real_camvid(shared_data):
    camvid = load_dataset("camvid", shared_data)
    assert camvid.verify() == []
    label = camvid.label(camvid.items("test")[0])
    raw = np.asarray(Image.open(camvid.items("test")[0].label))
    assert label.shape == (360, 480) and ((label == 255) == (raw == 11)).all()


def test_real_ade20k(shared_data):
    ade = load_dataset("ade20k", shared_data)
    items = ade.items("val")
    assert [item.name for item in items] == ["ADE_val_00000001", "ADE_val_00000002", "ADE_val_00000003"]
    lines = (shared_data / "ADEChallengeData2016" / "objectInfo150.txt").read_text().splitlines()[1:]
    assert list(ade.classes) == [line.split("\t")[4].split(",")[0].strip() for line in lines]
    raw = np.asarray(Image.open(items[0].label)).astype(int)
    assert (ade.label(items[0]) == np.where(raw == 0, 255, raw - 1)).all()


@pytest.mark.parametrize(("name", "isthing"), [("coco-things", 1), ("coco-stuff", 0)])
def test_real_coco_against_a_loop_over_segments(shared_data, name, isthing):
    dataset = load_dataset(name, shared_data)
    content = json.loads((shared_data / "coco" / "annotations" / "panoptic_val2017.json").read_text())
    categories = {category["id"]: category for category in content["categories"]}
    names = sorted({c["supercategory"] for c in categories.values() if c["isthing"] == isthing})
    assert list(dataset.classes) == names and len(dataset.items("val")) == 100
    for annotation in content["annotations"][:5]:
        item = next(item for item in dataset.items("val") if f"{item.name}.png" == annotation["file_name"])
        pixels = np.asarray(Image.open(item.label)).astype(int) @ [1, 256, 65536]
        expected = np.full(pixels.shape, 255)
        for segment in annotation["segments_info"]:
            category = categories[segment["category_id"]]
            if category["isthing"] == isthing:
                expected[pixels == segment["id"]] = names.index(category["supercategory"])
        assert (dataset.label(item) == expected).all()
    assert dataset.verify() == ["train: 100 of the official 118287 images", "val: 100 of the official 5000 images"]
