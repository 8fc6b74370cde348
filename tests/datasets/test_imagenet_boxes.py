"""Boxes of ImageNet: layouts, the size shown to the annotator, errors that name the file."""

from __future__ import annotations

import itertools

import pytest
from PIL import Image

from densebench.datasets import load_dataset
from densebench.errors import UserError


def said(error):
    """An error for people: one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


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
