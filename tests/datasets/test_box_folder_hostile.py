"""`boxes:DIR` with files in which anything may stand: they are read or refused in one line."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from changed_values import check_all
from dataset_files import save_image, save_text
from voc_files import voc_object, voc_xml

from densebench.datasets import load_dataset
from densebench.errors import UserError


def use(folder):
    dataset = load_dataset(f"boxes:{folder}")
    for item in dataset.items(dataset.val_split):
        dataset.label_digest(item)
        objects = dataset.objects(item)
        assert (objects.boxes[:, 2:] > objects.boxes[:, :2]).all() and (objects.classes >= 0).all()


@pytest.mark.slow
def test_every_change_of_a_json(tmp_path):
    save_image(tmp_path / "a.jpg", 8, 8)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4]}],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    use(tmp_path)
    assert check_all(content, path, lambda: use(tmp_path)) > 150


def test_damaged_xml(tmp_path):
    save_image(tmp_path / "a.jpg", 8, 8)
    whole, path = voc_xml((8, 8), [voc_object("dog", (1, 2, 3, 4), difficult=1)]).encode(), tmp_path / "a.xml"
    random = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        for index in random.integers(0, len(content), 2):
            content[index] = random.integers(0, 256)
        path.write_bytes(bytes(content[: random.integers(1, len(content) + 1)] if random.random() < 0.3 else content))
        try:
            use(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["a.xml", "coco.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_instead_of_a_file(tmp_path, name, make):
    save_image(tmp_path / "a.jpg", 8, 8)
    make(tmp_path / name)
    with pytest.raises(UserError, match=r"is (a pipe, a socket or a device|a folder), not a file"):
        use(tmp_path)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a\\b.jpg"])
def test_an_image_outside_of_the_folder_is_refused(tmp_path, name):
    save_image(tmp_path / "a.jpg", 8, 8)
    images = [{"id": 1, "file_name": name, "width": 8, "height": 8}]
    save_text(tmp_path / "coco.json", json.dumps({"images": images, "categories": [{"id": 1, "name": "x"}], "annotations": []}))
    with pytest.raises(UserError, match="holds the name"):
        use(tmp_path)
