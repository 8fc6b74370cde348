"""Real data sets as folders of one's own: the labels must be those of the data sets that know them."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import call, record

from densebench.bridges.torchvision.masks import decode
from densebench.datasets import load_dataset


def linked(folder, items):
    """Make a folder of links: images/ and masks/, each called as the item."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for item in items:
        (folder / "images" / f"{item.name}{item.image.suffix}").symlink_to(item.image)
        (folder / "masks" / f"{item.name}{item.label.suffix}").symlink_to(item.label)
    return folder


def labels(dataset):
    return {item.name: dataset.label(item) for split in ("train", "val") for item in dataset.items(split)}


def test_voc_with_palettes(shared_data, tmp_path):
    official = load_dataset("voc", shared_data)
    items = official.part("val", 30)
    found = load_dataset(linked(tmp_path / "mine", items))
    shown = np.flatnonzero(official.presence(items).any(axis=0))
    assert found.classes == tuple(f"class {value}" for value in shown)
    ids = np.full(256, 255, np.uint8)
    ids[shown] = np.arange(len(shown))
    assert all((label == ids[official.label(item)]).all() for item in items for label in [labels(found)[item.name]])


@pytest.mark.parametrize("query", ["", "?ignore_index=11"])
def test_camvid_whose_void_is_11(shared_data, tmp_path, query):
    official = load_dataset("camvid", shared_data)
    items = official.part("val", 20)
    found = load_dataset(f"folder:{linked(tmp_path / 'mine', items)}{query}")
    assert len(found.classes) == (11 if query else 12)
    mine = labels(found)
    for item in items:
        expected = official.label(item)
        assert (mine[item.name] == (expected if query else np.where(expected == 255, 11, expected))).all()


def test_coco_agrees_with_the_masks_of_its_objects(shared_data):
    dataset = load_dataset(f"folder:{shared_data / 'coco'}?labels=annotations/instances_val2017.json&images=val2017")
    boxes = load_dataset("coco-boxes", shared_data)
    known = {item.name: item for item in boxes.items("val")}
    for item in dataset.items("val")[:10]:
        objects = boxes.objects(known[item.name])
        label = dataset.label(item)
        masks = decode(objects.masks, *label.shape, item.name).astype(bool)
        covered = np.zeros(label.shape, bool) if not len(masks) else masks.any(axis=0)
        assert np.mean(covered == (label > 0)) > 0.995
        assert set(np.unique(label)) - {0} <= {number + 1 for number in objects.classes.tolist()}


def test_a_record_says_what_was_inferred(shared_data, tmp_path):
    folder = linked(tmp_path / "mine", load_dataset("camvid", shared_data).part("val", 12))
    words = "--protocol incontext --backbone pixels:16 --image-size 32 --neighbours 3 --augment-epochs 0 --workers 0 --dataset"
    assert call("eval", *words.split(), folder, folder=tmp_path).status == 0
    facts = record(tmp_path)["dataset"]
    assert facts["mapping"] == "folder-12-ignore-255-from-0-v1"
    assert facts["label_values"] == list(range(12))
    assert facts["split_rule"] == "by seed 0, 0.2 of the names for val"
