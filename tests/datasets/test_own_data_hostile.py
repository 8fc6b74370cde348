"""Annotation files of a wrong shape in a user's folder: whatever stands in them, they are read or refused in one line."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from changed_values import check_all
from dataset_files import save_image, save_text
from shape_files import CVAT, NAMES, POLYGONS, coco, shape

from densebench.datasets import load_dataset
from densebench.errors import UserError


@pytest.fixture
def photos(tmp_path):
    for name in NAMES:
        save_image(tmp_path / "photos" / "images" / f"{name}.jpg")
    return tmp_path / "photos"


def use(folder, labels):
    dataset = load_dataset(f"folder:{folder}?labels={labels}&val=0.5")
    for item in dataset.items("val"):
        dataset.label(item)
        dataset.label_digest(item)


def refused(folder, labels, message=""):
    with pytest.raises(UserError, match=message) as caught:
        use(folder, labels)
    assert "\n" not in str(caught.value)


def test_every_change_of_a_coco_json(photos):
    content = coco([(3, [[2, 1, 3, 1, 3, 2]]), (1, {"size": [4, 6], "counts": [20, 4]})])
    save_text(photos / "coco.json", json.dumps(content))
    use(photos, "coco.json")
    assert check_all(content, photos / "coco.json", lambda: use(photos, "coco.json")) > 150


def test_every_change_of_a_labelme_json(photos):
    shapes = [shape("dog", [[4, 3], [1, 1]], "rectangle"), shape("cat", [[2, 1], [3, 1], [3, 2]])]
    content = {"imagePath": "a.jpg", "imageWidth": 6, "imageHeight": 4, "shapes": shapes}
    for name in NAMES:
        save_text(photos / "images" / f"{name}.json", json.dumps({**content, "imagePath": f"{name}.jpg"}))
    use(photos, "images")
    assert check_all(content, photos / "images" / "a.json", lambda: use(photos, "images")) > 60


def test_damaged_xml_of_cvat(photos):
    text = CVAT.format("".join(f'<image name="{name}.jpg" width="6" height="4">{POLYGONS}</image>' for name in NAMES)).encode()
    path = photos / "annotations.xml"
    path.write_bytes(text)
    use(photos, "annotations.xml")
    random = np.random.default_rng(0)
    for count in range(300):
        content = bytearray(text)
        for index in random.integers(0, len(content), 2):
            content[index] = random.integers(0, 256)
        path.write_bytes(bytes(content))
        os.utime(path, ns=(count * 10**9, count * 10**9))
        try:
            use(photos, "annotations.xml")
        except UserError as error:
            assert "\n" not in str(error)


BOMB = '<!DOCTYPE a [<!ENTITY x "yyyyyyyyyy"><!ENTITY z "&x;&x;&x;&x;&x;&x;&x;&x;">]><annotations>&z;</annotations>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "it declares a document type a"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "it declares a document type a"),
        ("<annotations>&x;</annotations>", "undefined entity"),
        ("<a>" * 100_000, "is no XML of"),
        ("", "is no XML of"),
        ("<html/>", "its root is html"),
    ],
)
def test_xml_that_expands_or_is_another(photos, content, message):
    save_text(photos / "annotations.xml", content)
    refused(photos, "annotations.xml", message)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ('<polyline label="cat" points="1,1;2,2"/>', "a polyline encloses no pixels; polygon, box, ellipse and mask do"),
        ('<points label="cat" points="1,1"/>', "a points encloses no pixels"),
        ('<polygon label="cat" points="1,1;2;3,3"/>', "a polygon is not a list of x, y"),
        ('<polygon label="cat" points="nan,1;2,2;3,3"/>', "nan is not a coordinate"),
        ('<polygon label="cat" points="1e9,1;2,2;3,3"/>', "is not a coordinate up to"),
        ('<polygon points="1,1;2,2;3,3"/>', "label"),
        ('<mask label="cat" rle="1,2" left="0" top="0" width="6" height="4"/>', "its run lengths do not fill"),
        ('<mask label="cat" rle="0,1" left="0" top="0" width="99999999" height="1"/>', "width is 99999999, not from 1 to"),
        ('<ellipse label="cat" cx="1" cy="1" rx="0" ry="1"/>', "an ellipse has the half axes 0 and 1"),
    ],
)
def test_shapes_of_cvat_that_enclose_nothing(photos, shapes, message):
    save_text(photos / "a.xml", CVAT.format(f'<image name="a.jpg" width="6" height="4">{shapes}</image>'))
    refused(photos, "a.xml", message)


@pytest.mark.parametrize("kind", ["line", "point", "linestrip", "points", "cuboid"])
def test_shapes_of_labelme_that_enclose_nothing(photos, kind):
    content = {"imagePath": "a.jpg", "imageWidth": 6, "imageHeight": 4, "shapes": [shape("cat", [[1, 1], [2, 2]], kind)]}
    save_text(photos / "images" / "a.json", json.dumps(content))
    refused(photos, "images", f"a.json is no LabelMe JSON .*a {kind} encloses no pixels; polygon, rectangle, circle and mask do")


@pytest.mark.parametrize("content", ["[" * 100_000, "", "{", "[]", "[1" + "0" * 5000 + "]"])
def test_json_that_is_none_or_too_deep(photos, content):
    save_text(photos / "coco.json", content)
    refused(photos, "coco.json", "is no COCO instances file")


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "a\\b.jpg", "", "a//b", 7, None])
def test_names_of_images_that_leave_the_folder(photos, name):
    content = coco()
    content["images"][0]["file_name"] = name
    save_text(photos / "coco.json", json.dumps(content))
    refused(photos, "coco.json", "coco.json, images, holds the name")


def test_objects_with_boxes_alone_are_no_masks(photos):
    content = coco()
    content["annotations"][2] = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2]}
    save_text(photos / "coco.json", json.dumps(content))
    refused(photos, "coco.json", "annotation 2 has a box alone and no segmentation")


@pytest.mark.parametrize("name", ["labels.txt", "labels.csv"])
def test_files_of_another_kind(photos, name):
    save_text(photos / name, "a")
    refused(photos, name, "neither a COCO .json nor a CVAT .xml nor a folder")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path)])
def test_a_pipe_or_a_circle_instead_of_a_file(photos, make):
    make(photos / "coco.json")
    refused(photos, "coco.json", "is a pipe|there is no|cannot be read")


def test_a_pipe_as_classes_toml(photos):
    os.mkfifo(photos / "classes.toml")
    refused(photos, "coco.json", "classes.toml is a pipe")
