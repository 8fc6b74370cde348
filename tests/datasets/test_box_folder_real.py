"""`boxes:DIR` on real images of COCO: the same objects as the official layout gives."""

from __future__ import annotations

import pytest

from densebench.datasets import load_dataset

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_folder_with_a_json_of_coco_gives_the_objects_of_coco(shared_data, tmp_path, split):
    (tmp_path / "images").symlink_to(shared_data / "coco" / f"{split}2017")
    (tmp_path / "coco.json").symlink_to(shared_data / "coco" / "annotations" / f"instances_{split}2017.json")
    own, official = load_dataset(f"boxes:{tmp_path}"), load_dataset("coco-boxes", shared_data)
    items = {item.name: item for item in official.items(split)}
    assert own.classes == official.classes and own.has_masks and {item.name for item in own.items("all")} == items.keys()
    for item in own.items("all"):
        assert own.annotation(item) == official.annotation(items[item.name])
