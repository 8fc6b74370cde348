"""Annotation files of a wrong shape: whatever stands in them, they are read or refused in one line."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from changed_values import check_all
from coco_files import CATEGORIES, instance, write_coco
from PIL import Image

import densebench.datasets.io.digests as digests_module
from densebench.bridges.torchvision.masks import decode
from densebench.datasets import load_dataset
from densebench.errors import UserError

THINGS = [
    "accessory", "animal", "appliance", "electronic", "food", "furniture", "indoor", "kitchen", "outdoor", "person", "sports",
    "vehicle",
]  # fmt: skip
STUFF = [
    "building", "ceiling", "floor", "food-stuff", "furniture-stuff", "ground", "plant", "raw-material", "sky", "solid",
    "structural", "textile", "wall", "water", "window",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    digests_module.shared_digests.cache_clear()


def panoptic(things=THINGS, stuff=STUFF):
    categories = [{"id": i + 1, "isthing": 1, "supercategory": name} for i, name in enumerate(things)]
    categories += [{"id": i + 92, "isthing": 0, "supercategory": name} for i, name in enumerate(stuff)]
    segments = [{"id": 9, "category_id": 1}, {"id": 300, "category_id": 92}]
    return {"categories": categories, "annotations": [{"file_name": "1.png", "segments_info": segments}]}


@pytest.mark.parametrize("name", ["coco-things", "coco-stuff"])
def test_panoptic_json(tmp_path, name):
    folder = tmp_path / "coco"
    for part in ("val2017", "annotations/panoptic_val2017"):
        (folder / part).mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(folder / "val2017" / "1.jpg")
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, :2] = (9, 0, 0), (44, 1, 0)
    Image.fromarray(pixels).save(folder / "annotations/panoptic_val2017/1.png")
    dataset = load_dataset(name, tmp_path)

    def use():
        for item in dataset.items("val"):
            if item.name == "1":
                dataset.label(item)
                dataset.label_digest(item)

    path = folder / "annotations/panoptic_val2017.json"
    path.write_text(json.dumps(panoptic()))
    use()
    assert check_all(panoptic(), path, use) > 150


def test_instances_json(tmp_path):
    outline = {"size": [8, 8], "counts": [0, 64]}
    objects = [instance(1, 1, (1, 1, 4, 4)), instance(1, 2, (1, 1, 4, 4), segmentation=outline)]
    path = write_coco(tmp_path, "val", {1: (8, 8)}, objects)
    content = {**json.loads(path.read_text()), "categories": CATEGORIES}
    dataset = load_dataset("coco-boxes", tmp_path)

    def use():
        for item in dataset.items("val"):
            dataset.label_digest(item)
            objects = dataset.objects(item)
            width, height = dataset.image(item).size
            decode(objects.masks, height, width, item.name)

    use()
    assert check_all(content, path, use) > 300


def test_the_json_of_the_pixel_maps(tmp_path):
    folder = tmp_path / "coco" / "annotations"
    (folder / "stuff_val2017_pixelmaps").mkdir(parents=True)
    (tmp_path / "coco/val2017").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "coco/val2017/1.jpg")
    Image.new("L", (6, 4), 92).save(folder / "stuff_val2017_pixelmaps" / "1.png")
    content = {"categories": [{"id": i + 92, "supercategory": name} for i, name in enumerate(STUFF)]}
    dataset = load_dataset("coco-stuff", tmp_path)
    path = folder / "stuff_val2017.json"
    path.write_text(json.dumps(content))
    [item] = dataset.items("val")
    assert (dataset.label(item) == 0).all()
    assert check_all(content, path, lambda: dataset.label(item)) > 20


FILES = {
    "coco-things": "coco/annotations/panoptic_val2017.json",
    "coco-boxes": "coco/annotations/instances_val2017.json",
    "voc": "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
    "davis2017": "DAVIS/ImageSets/2017/val.txt",
}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"", b"\xff\xfe", b"{", b"[1" + b"0" * 5000 + b"]"])
@pytest.mark.parametrize("name", ["coco-things", "coco-boxes"])
def test_json_that_is_none_or_too_deep(tmp_path, name, content):
    path = tmp_path / FILES[name]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is no COCO (panoptic|instances) file") as caught:
        load_dataset(name, tmp_path).items("val")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", FILES)
def test_a_pipe_or_a_folder_instead_of_a_file(tmp_path, name, make):
    path = tmp_path / FILES[name]
    path.parent.mkdir(parents=True)
    (tmp_path / "VOCdevkit/VOC2012/SegmentationClass").mkdir(parents=True, exist_ok=True)
    make(path)
    with pytest.raises(UserError, match=r"is (a pipe, a socket or a device|a folder), not a file"):
        load_dataset(name, tmp_path).items("val")


XML = b"""<annotation><size><width>8</width><height>8</height></size><object><name>n01</name><bndbox><xmin>1</xmin><ymin>1</ymin>
<xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"""


@pytest.fixture
def imagenet(tmp_path):
    folder = tmp_path / "ILSVRC/Annotations/CLS-LOC/val"
    folder.mkdir(parents=True)
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01 a fish\n")
    (tmp_path / "ILSVRC2012/val").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "ILSVRC2012/val/a.JPEG", "jpeg")
    return load_dataset("imagenet-boxes", tmp_path), folder / "a.xml"


def test_damaged_xml_is_read_or_refused_in_one_line(imagenet):
    dataset, path = imagenet
    path.write_bytes(XML)
    [item] = dataset.items("val")
    assert len(dataset.objects(item)) == 1
    random = np.random.default_rng(0)
    for _ in range(500):
        content = bytearray(XML)
        for index in random.integers(0, len(content), 2):
            content[index] = random.integers(0, 256)
        path.write_bytes(bytes(content[: random.integers(1, len(content) + 1)] if random.random() < 0.3 else content))
        try:
            dataset.objects(item)
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b'<?xml version="1.0" encoding="foo"?><a/>', b"<a>" * 100_000, b""])
def test_odd_xml(imagenet, content):
    dataset, path = imagenet
    path.write_bytes(content)
    [item] = dataset.items("val")
    with pytest.raises(UserError, match="is no annotation of ImageNet") as caught:
        dataset.objects(item)
    assert "\n" not in str(caught.value)
