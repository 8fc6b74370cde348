"""Boxes of Pascal VOC 2007 and 2012: the official layout, pixels that count from 1, marks, and files that are refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from dataset_files import save_image
from voc_files import voc_object, voc_xml, write_voc

from densebench.datasets import load_dataset
from densebench.errors import UserError

HEAD = "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>10</xmax><ymax>10</ymax></bndbox></part>"
IMAGES = {
    "000009": ((60, 40), [
        voc_object("tvmonitor", (1, 1, 60, 40), difficult=0, truncated=1),
        voc_object("person", (11, 21, 20, 30), difficult=1, truncated=0, part=HEAD),
        voc_object("aeroplane", (3, 4, 3, 4)),
    ]),
    "000005": ((30, 50), [voc_object("dog", ("5.5", 6, 7, 8), truncated="Unspecified")]),
    "000012": ((20, 20), []),
}  # fmt: skip
LISTS = {"trainval": ("000009", "000005", "000012"), "train": ("000009",), "val": ("000005", "000012")}


@pytest.fixture(params=["2007", "2012"])
def dataset(tmp_path, request):
    write_voc(tmp_path, request.param, IMAGES, LISTS)
    return load_dataset(f"voc{request.param}", tmp_path)


def test_items_are_those_of_the_list_in_its_order(dataset):
    assert (dataset.train_split, dataset.val_split) == ("trainval", "trainval")
    for split, names in LISTS.items():
        assert tuple(item.name for item in dataset.items(split)) == names
    assert [dataset.image(item).size for item in dataset.items("trainval")] == [(60, 40), (30, 50), (20, 20)]


def test_pixels_count_from_one_and_boxes_include_the_last(dataset):
    first, second, third = (dataset.objects(item) for item in dataset.items("trainval"))
    assert first.boxes.tolist() == [[0, 0, 60, 40], [10, 20, 20, 30], [2, 3, 3, 4]]
    assert second.boxes.tolist() == [[4.5, 5, 7, 8]]
    assert third.boxes.shape == (0, 4) and len(third) == len(third.difficult) == 0
    assert first.areas.tolist() == [2400, 100, 1] and not first.crowd.any()
    assert [dataset.classes[c] for c in first.classes] == ["tvmonitor", "person", "aeroplane"]
    assert len(dataset.classes) == 20 and "background" not in dataset.classes


def test_marks_are_kept_and_leave_no_object_out(dataset):
    first, second, _ = (dataset.objects(item) for item in dataset.items("trainval"))
    assert first.difficult.tolist() == [False, True, False]
    assert first.truncated.tolist() == [True, False, False]
    assert not second.truncated.any()


def test_a_box_is_clipped_but_not_in_the_truth(tmp_path):
    outside = [voc_object("cat", (0, 5, 25, 9), difficult=1), voc_object("dog", (30, 1, 40, 9))]
    write_voc(tmp_path, "2007", {"a": ((20, 10), outside)}, {"trainval": ("a",)})
    dataset = load_dataset("voc2007", tmp_path)
    [item] = dataset.items("trainval")
    assert dataset.objects(item).boxes.tolist() == [[0, 4, 20, 9]]
    assert dataset.objects(item).difficult.tolist() == [True]
    assert dataset.truth(item).boxes.tolist() == [[-1, 4, 25, 9], [29, 0, 40, 9]]


def test_every_box_is_that_of_a_naive_loop(tmp_path):
    rng = np.random.default_rng(0)
    boxes = {f"{i:06}": rng.integers((1, 1, 20, 20), (20, 20, 41, 31), (5, 4)).tolist() for i in range(20)}
    images = {name: ((40, 30), [voc_object("cow", box) for box in rows]) for name, rows in boxes.items()}
    write_voc(tmp_path, "2007", images, {"trainval": sorted(images)})
    dataset = load_dataset("voc2007", tmp_path)
    for item in dataset.items("trainval"):
        covered = [
            ({x for x in range(40) if left <= x + 1 <= right}, {y for y in range(30) if top <= y + 1 <= bottom})
            for left, top, right, bottom in boxes[item.name]
        ]
        expected = [[min(xs), min(ys), max(xs) + 1, max(ys) + 1] for xs, ys in covered]
        assert dataset.objects(item).boxes.tolist() == expected


def test_the_digest_follows_the_annotation_and_the_version_of_the_mapping(dataset):
    items = dataset.items("trainval")
    before = dataset.label_digests(items)
    items[0].label.write_text(voc_xml((60, 40), [voc_object("dog", (1, 1, 2, 2))]))
    after = dataset.label_digests(items)
    assert after[0] != before[0] and after[1:] == before[1:]
    assert pickle.loads(pickle.dumps(dataset)) == dataset


BOMB = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
BOX = (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (voc_xml((60, 40), [], BOMB), "declares a document type"),
        (voc_xml((60, 40), [], OUTSIDE), "declares a document type"),
        (voc_xml((60, 40), [voc_object("unicorn", BOX)]), "an object 'unicorn', none of the 20 classes"),
        (voc_xml((40, 60), []), r"is 60 x 40 but .* says 40 x 60"),
        (voc_xml((60, 40), [voc_object("dog", (1, "nan", 3, 4))]), "bndbox/ymin is nan"),
        (voc_xml((60, 40), [voc_object("dog", (1, "x", 3, 4))]), "could not convert"),
        (voc_xml((60, 40), [voc_object("", BOX)]), "it lacks name"),
        (voc_xml((60, 40), [voc_object("dog", BOX, difficult=2)]), "difficult is '2', not 0 or 1"),
        (voc_xml((60, 40), ["<object><name>dog</name></object>"]), "it lacks bndbox/xmin"),
        ("<annotations></annotations>", "its root is annotations, not annotation"),
        ("<annotation>", "is no annotation of Pascal VOC"),
        ("", "is no annotation of Pascal VOC"),
    ],
)
def test_a_broken_annotation_is_one_line(dataset, content, message):
    item = dataset.items("trainval")[0]
    item.label.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        dataset.objects(item)
    assert str(item.label) in str(error.value) and "\n" not in str(error.value)


def test_damaged_bytes_are_read_or_refused_in_one_line(dataset):
    item, random = dataset.items("trainval")[0], np.random.default_rng(0)
    whole = item.label.read_bytes()
    for _ in range(60):
        content = bytearray(whole)
        for index in random.integers(0, len(content), 2):
            content[index] = random.integers(0, 256)
        item.label.write_bytes(bytes(content))
        try:
            dataset.objects(item)
        except UserError as error:
            assert "\n" not in str(error)


def test_verify_counts_and_opens(dataset):
    missing = [f"{split}: {len(names)} of the official" for split, names in LISTS.items()]
    found = [line for line in dataset.verify(full=True) if not line.startswith("test:")]
    assert [line.partition(" official")[0] + " official" for line in found] == missing
    dataset.items("train")[0].image.unlink()
    save_image(dataset.items("val")[0].image, 9, 9)
    found = "\n".join(dataset.verify(full=True))
    assert "1 files are missing, the first is" in found and "is 9 x 9 but" in found


def test_what_is_missing_is_named(tmp_path):
    dataset = load_dataset("voc2007", tmp_path)
    with pytest.raises(UserError, match=r"trainval.txt is missing; run `densebench data get voc2007`"):
        dataset.items("trainval")
    folder = write_voc(tmp_path, "2007", {}, {"trainval": ("a",)})
    with pytest.raises(UserError, match=r"the folder .*Annotations is missing"):
        dataset.items("trainval")
    (folder / "Annotations").mkdir()
    [item] = dataset.items("trainval")
    with pytest.raises(UserError, match=r"a.xml is missing"):
        dataset.objects(item)


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a\\b"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    write_voc(tmp_path, "2007", {}, {"trainval": (name,)})
    with pytest.raises(UserError, match="holds the name"):
        load_dataset("voc2007", tmp_path).items("trainval")
