"""What the values in the label files of each data set mean."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_files import grid, save_image, save_mask, save_text

from densebench.datasets import load_dataset
from densebench.datasets.dataset import Item
from densebench.errors import UserError
from densebench.files.atomic import file_digest


def test_ade20k_reduces_the_zero_label(tmp_path):
    folder = tmp_path / "ADEChallengeData2016"
    for name, mask in (("ADE_val_2", grid(0, 1, 2, 150)), ("ADE_val_1", grid(151))):
        save_image(folder / "images" / "validation" / f"{name}.jpg")
        save_mask(folder / "annotations" / "validation" / f"{name}.png", mask)
    dataset = load_dataset("ade20k", tmp_path)
    bad, good = dataset.items("val")
    assert (bad.name, good.name) == ("ADE_val_1", "ADE_val_2")  # sorted
    assert dataset.label(good).ravel()[:5].tolist() == [255, 0, 1, 149, 255]
    assert dataset.reduce_zero_label and dataset.classes[0] == "wall" and dataset.classes[149] == "flag"
    with pytest.raises(UserError, match="value 151"):
        dataset.label(bad)
    save_mask(good.label, grid(255))
    with pytest.raises(UserError, match="value 255"):
        dataset.label(good)


def test_cityscapes_keeps_nineteen_of_thirty_four_ids(tmp_path):
    folder = tmp_path / "cityscapes"
    for city in ("ulm", "bonn"):
        save_image(folder / "leftImg8bit" / "val" / city / f"{city}_1_leftImg8bit.png", 6, 6)
        save_mask(folder / "gtFine" / "val" / city / f"{city}_1_gtFine_labelIds.png", np.arange(36).reshape(6, 6).clip(max=33))
    dataset = load_dataset("cityscapes", tmp_path)
    items = dataset.items("val")
    assert [item.name for item in items] == ["bonn_1", "ulm_1"]
    ids = dataset.label(items[0]).ravel()[:34].tolist()
    kept = {7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
            20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
            28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}  # fmt: skip
    assert [dataset.classes[i] if i != 255 else None for i in ids] == [kept.get(raw) for raw in range(34)]
    save_mask(items[0].label, grid(34, height=6))
    with pytest.raises(UserError, match="value 34"):
        dataset.label(items[0])


def test_camvid_takes_relative_and_absolute_lists(tmp_path):
    folder = tmp_path / "CamVid"
    save_image(folder / "test" / "f1.png")
    save_mask(folder / "testannot" / "f1.png", grid(0, 10, 11))
    for prefix in ("CamVid/", "/SegNet/CamVid/"):
        save_text(folder / "test.txt", f"{prefix}test/f1.png {prefix}testannot/f1.png\n")
        dataset = load_dataset("camvid", tmp_path)
        (item,) = dataset.items("test")
        assert item == Item("f1", folder / "test" / "f1.png", folder / "testannot" / "f1.png")
        assert dataset.label(item).ravel()[:4].tolist() == [0, 10, 255, 0]
    assert (dataset.train_split, dataset.val_split) == ("train", "test")
    save_mask(item.label, grid(12))
    with pytest.raises(UserError, match="value 12"):
        dataset.label(item)
    save_text(folder / "test.txt", "one.png\n")
    with pytest.raises(UserError, match=r"test.txt holds 'one.png'"):
        dataset.items("test")


def test_pascal_context_with_and_without_background(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2010"
    save_image(folder / "JPEGImages" / "x.jpg")
    save_mask(folder / "SegmentationClassContext" / "x.png", grid(0, 1, 59))
    save_text(folder / "ImageSets" / "SegmentationContext" / "val.txt", "x\n")
    with_background, without = (load_dataset(name, tmp_path) for name in ("pascal-context", "pascal-context-59"))
    (item,) = with_background.items("val")
    assert with_background.label(item).ravel()[:4].tolist() == [0, 1, 59, 0]
    assert without.label(item).ravel()[:4].tolist() == [255, 0, 58, 255]
    assert with_background.classes[1:] == without.classes and without.classes[0] == "aeroplane"
    assert (with_background.background, without.background) == (0, None)
    assert with_background.label_digest(item) != without.label_digest(item)
    assert with_background.image_digest(item) == without.image_digest(item) == file_digest(item.image)


def test_coco_stuff164k_closes_the_gaps(tmp_path):
    save_image(tmp_path / "coco" / "val2017" / "1.jpg", 14, 14)
    raw = [value for value in range(182) if value not in {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}]
    mask = np.full(196, 255, np.uint8)
    mask[: len(raw)] = raw
    save_mask(tmp_path / "coco" / "stuffthingmaps" / "val2017" / "1.png", mask.reshape(14, 14))
    dataset = load_dataset("coco-stuff164k", tmp_path)
    (item,) = dataset.items("val")
    assert dataset.label(item).ravel().tolist() == [*range(171), *[255] * 25]
    names = dict(zip(raw, dataset.classes, strict=True))  # raw value + 1 is the id of labels.txt
    assert [names[i - 1] for i in (1, 13, 27, 31, 46, 84, 90, 92, 97, 124, 149, 169, 182)] == [
        "person", "stop sign", "backpack", "handbag", "wine glass", "book", "toothbrush", "banner", "bush", "grass", "road",
        "tree", "wood",
    ]  # fmt: skip
    save_mask(item.label, grid(11, height=14, width=14))
    with pytest.raises(UserError, match="value 11"):
        dataset.label(item)
