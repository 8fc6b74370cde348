"""`boxes:DIR`: where boxes may lie, how images are split, and what is refused."""

from __future__ import annotations

import json
import pickle

import pytest
from dataset_files import save_image, save_text
from voc_files import voc_object, voc_xml, write_voc

from densebench.datasets import load_dataset
from densebench.errors import UserError

NAMES = ("a", "b", "c", "d")
SIZE = (6, 4)
XML = voc_xml(SIZE, [voc_object("dog", (2, 1, 4, 4), difficult=1), voc_object("cat", (1, 1, 9, 2))])
BOXES = [[1, 0, 4, 4], [0, 0, 6, 2]]


def coco(names=NAMES, masks=True, size=SIZE, categories=((5, "dog"), (2, "cat"))):
    outline = {"segmentation": [[1, 0, 5, 0, 5, 4]], "area": 8, "iscrowd": 0} if masks else {}
    objects = [{"category_id": 5, "bbox": [1, 0, 3, 4], **outline}, {"category_id": 2, "bbox": [-1, 0, 9, 2], **outline}]
    return json.dumps({
        "images": [{"id": i, "file_name": f"{name}.jpg", "width": size[0], "height": size[1]} for i, name in enumerate(names)],
        "categories": [{"id": number, "name": name} for number, name in categories],
        "annotations": [{"id": 9 * i + j, "image_id": i, **one} for i, _ in enumerate(names) for j, one in enumerate(objects)],
    })  # fmt: skip


def pictures(folder, names=NAMES):
    for name in names:
        save_image(folder / f"{name}.jpg", SIZE[1], SIZE[0])


def boxes_of(dataset):
    return [dataset.objects(item).boxes.tolist() for split in dataset.splits for item in dataset.items(split)]


def names_of(dataset):
    return {split: [item.name for item in dataset.items(split)] for split in dataset.splits}


def opened(folder, query=""):
    return load_dataset(f"boxes:{folder}{query}")


@pytest.mark.parametrize(
    ("images", "labels"),
    [("", "coco.json"), ("images", "annotations/x.json"), ("photos", "Labels/x.json"), ("", "images/x.json")],
)
def test_a_coco_json_at_the_top_or_in_a_folder_of_annotations(tmp_path, images, labels):
    pictures(tmp_path / images)
    save_text(tmp_path / labels, coco())
    dataset = opened(tmp_path, "" if labels != "images/x.json" else "?labels=images/x.json")
    assert names_of(dataset) == {"all": list(NAMES)} and dataset.classes == ("cat", "dog")
    assert boxes_of(dataset) == [BOXES] * 4
    assert dataset.objects(dataset.items("all")[0]).classes.tolist() == [1, 0]
    assert dataset.verify(full=True) == []


@pytest.mark.parametrize(
    "folders", [("", ""), ("JPEGImages", "Annotations"), ("images", "labels"), ("", "xml"), ("images", "images")]
)
def test_an_xml_for_each_image(tmp_path, folders):
    images, labels = folders
    pictures(tmp_path / images)
    for name in NAMES:
        save_text(tmp_path / labels / f"{name}.xml", XML)
    dataset = opened(tmp_path)
    assert names_of(dataset) == {"all": list(NAMES)} and dataset.classes == ("cat", "dog")
    objects = dataset.objects(dataset.items("all")[0])
    assert objects.boxes.tolist() == BOXES and objects.classes.tolist() == [1, 0]
    assert objects.difficult.tolist() == [True, False] and not dataset.has_masks
    assert dataset.verify(full=True) == []


def test_a_json_of_each_split(tmp_path):
    for split, names in (("train", "ab"), ("valid", "cd")):
        pictures(tmp_path / split, names)
        save_text(tmp_path / split / "_annotations.coco.json", coco(names))
    dataset = opened(tmp_path)
    assert names_of(dataset) == {"train": ["train/a", "train/b"], "valid": ["valid/c", "valid/d"]}
    assert (dataset.train_split, dataset.val_split) == ("train", "valid") and boxes_of(dataset) == [BOXES] * 4


def test_xmls_in_folders_of_splits(tmp_path):
    for split, names in (("train", "ab"), ("test", "cd")):
        pictures(tmp_path / split, names)
        for name in names:
            save_text(tmp_path / split / f"{name}.xml", XML)
    dataset = opened(tmp_path)
    assert names_of(dataset) == {"train": ["a", "b"], "test": ["c", "d"]} and dataset.val_split == "test"


def test_the_devkit_of_voc_is_split_by_its_lists(tmp_path):
    images = {name: (SIZE, [voc_object("dog", (1, 1, 2, 2))]) for name in NAMES}
    lists = {"train": "ab", "val": "cd", "trainval": NAMES, "dog_train": ("a  1", "b -1")}
    folder = write_voc(tmp_path, "2007", images, lists)
    dataset = opened(folder)
    assert names_of(dataset) == {"train": ["a", "b"], "trainval": list(NAMES), "val": ["c", "d"]}
    assert (dataset.train_split, dataset.val_split) == ("train", "val")


def test_a_split_by_seed_only_where_it_is_asked_for(tmp_path, capsys):
    pictures(tmp_path, "abcdefghij")
    save_text(tmp_path / "coco.json", coco("abcdefghij"))
    assert names_of(opened(tmp_path)) == {"all": list("abcdefghij")}
    said = capsys.readouterr().err
    assert "10 images with boxes in coco.json (COCO); classes cat, dog; not split (?val=0.2 draws a part by seed)" in said
    drawn = opened(tmp_path, "?val=0.3&seed=1")
    assert drawn.splits == ("train", "val")
    assert sorted(name for names in names_of(drawn).values() for name in names) == list("abcdefghij")


def test_masks_count_where_every_object_has_one(tmp_path):
    pictures(tmp_path)
    save_text(tmp_path / "coco.json", coco())
    assert opened(tmp_path).has_masks
    save_text(tmp_path / "coco.json", coco(masks=False))
    dataset = opened(tmp_path)
    objects = dataset.objects(dataset.items("all")[0])
    assert not dataset.has_masks and objects.areas.tolist() == [12, 18] and not objects.crowd.any()


def test_the_order_of_the_classes_may_be_stated(tmp_path):
    pictures(tmp_path)
    save_text(tmp_path / "coco.json", coco())
    sorted_by_id = opened(tmp_path)
    save_text(tmp_path / "classes.toml", 'classes = ["dog", "horse", "cat"]')
    dataset = opened(tmp_path)
    assert dataset.objects(dataset.items("all")[0]).classes.tolist() == [0, 2]
    assert dataset.mapping != sorted_by_id.mapping
    save_text(tmp_path / "classes.toml", 'classes = ["dog"]')
    with pytest.raises(UserError, match="lists no class 'cat', of which there are objects"):
        opened(tmp_path)


def test_what_has_no_partner_is_counted_and_left_out(tmp_path, capsys):
    pictures(tmp_path, "abc")
    for name in "bcd":
        save_text(tmp_path / f"{name}.xml", XML)
    assert names_of(opened(tmp_path)) == {"all": ["b", "c"]}
    assert "1 images without an XML are left out; 1 XMLs without an image are left out" in capsys.readouterr().err
    save_text(tmp_path / "json/coco.json", coco())
    assert names_of(opened(tmp_path, "?labels=json/coco.json")) == {"all": ["a", "b", "c"]}
    assert "1 images that are listed are not there" in capsys.readouterr().err


def test_digests_follow_the_annotations_and_the_classes(tmp_path):
    pictures(tmp_path)
    save_text(tmp_path / "coco.json", coco())
    before = opened(tmp_path)
    digests = before.label_digests(before.items("all"))
    save_text(tmp_path / "coco.json", coco(masks=False))
    after = opened(tmp_path)
    assert set(after.label_digests(after.items("all"))).isdisjoint(digests)
    assert pickle.loads(pickle.dumps(after)) == after


def test_a_folder_that_cannot_be_understood_is_one_line(tmp_path):
    def refused(message, query=""):
        with pytest.raises(UserError, match=message) as error:
            opened(tmp_path, query)
        assert "\n" not in str(error.value)

    refused("does not exist", "/nowhere")
    pictures(tmp_path)
    refused("holds no boxes")
    refused("is about label maps; boxes take classes, splits", "?ignore_index=3")
    refused("no .json and no folder", "?labels=nowhere")
    refused("x.json is missing", "?labels=x.json")
    save_text(tmp_path / "annotations.xml", "<annotations></annotations>")
    refused("no XML in .* has an image of its name")
    save_text(tmp_path / "a.xml", '<!DOCTYPE a [<!ENTITY x "x">]><annotation/>')
    refused("declares a document type")
    save_text(tmp_path / "one.json", coco())
    save_text(tmp_path / "other.json", coco())
    refused(r"of which no one is a split's; say which one: \?labels=one.json")
    save_text(tmp_path / "one.json", coco(categories=((5, "dog"), (2, "dog"))))
    refused("two categories of one name", "?labels=one.json")
    save_text(tmp_path / "one.json", "{")
    refused("is no COCO instances file", "?labels=one.json")


@pytest.mark.parametrize("kind", ["coco", "xml"])
def test_another_size_than_the_image_has_is_refused(tmp_path, kind):
    pictures(tmp_path)
    for name in NAMES:
        save_text(tmp_path / f"{name}.xml", XML.replace("<width>6<", "<width>4<"))
    if kind == "coco":
        save_text(tmp_path / "coco.json", coco(size=(4, 4)))
    dataset = opened(tmp_path)
    with pytest.raises(UserError, match=r"is 6 x 4 but .* says 4 x 4"):
        dataset.objects(dataset.items("all")[0])


def test_categories_that_differ_between_splits_are_refused(tmp_path):
    for split, name in (("train", "dog"), ("val", "cow")):
        pictures(tmp_path / split)
        save_text(tmp_path / split / "x.json", coco(categories=((5, name), (2, "cat"))))
    with pytest.raises(UserError, match="list different categories"):
        opened(tmp_path)
