"""SPair-71k: pairs in the order of their names, levels, boxes, sizes, errors that name the file."""

from __future__ import annotations

import json

import pytest
from dataset_files import levels_of, save_image, save_text
from keypoint_files import said, spair_pair, write_spair

from densebench.datasets import load_dataset
from densebench.errors import UserError

TWO = {"a": spair_pair(), "b": spair_pair("2008_5", "2008_6", filename="000002-2008_5-2008_6:cat", viewpoint_variation=0)}


def test_a_pair_has_all_that_its_file_says(tmp_path):
    write_spair(tmp_path, a=TWO["a"])
    dataset = load_dataset("spair71k", tmp_path)
    [pair] = dataset.pairs("test")
    assert (pair.name, pair.category) == ("000001-2008_1-2009_2:cat", "cat")
    assert (pair.source.name, pair.target.name) == ("cat/2008_1", "cat/2009_2")
    assert pair.source_points.tolist() == [[5, 6], [7, 8]] and pair.target_points.tolist() == [[9, 10], [11, 12]]
    assert (pair.parts.tolist(), pair.source_box, pair.target_box) == ([3, 12], (1, 2, 50, 30), (3, 4, 20, 45))
    assert dict(pair.levels) == {"viewpoint": 2, "scale": 1, "truncation": 3, "occlusion": 0}
    assert dataset.state() == "present" and dataset.image(pair.source).size == (60, 40)


@pytest.mark.parametrize("layout", [True, False])
@pytest.mark.parametrize("split", ["trn", "val", "test"])
def test_pairs_come_by_name_whatever_the_order_of_the_list_or_the_folder(tmp_path, layout, split):
    names = write_spair(tmp_path, split, layout, **TWO)
    dataset = load_dataset("spair71k", tmp_path)
    assert [pair.name for pair in dataset.pairs(split)] == names
    assert levels_of(dataset.pairs(split))["viewpoint"] == [0, 2]


def test_the_list_decides_which_files_count(tmp_path):
    names = write_spair(tmp_path, **TWO)
    save_text(tmp_path / "SPair-71k" / "Layout" / "large" / "test.txt", names[1] + "\n")
    assert [pair.name for pair in load_dataset("spair71k", tmp_path).pairs("test")] == names[1:]


def test_the_classes_are_the_official_18(tmp_path):
    classes = load_dataset("spair71k", tmp_path).classes
    assert len(classes) == 18 and list(classes) == sorted(classes)
    assert not {"diningtable", "sofa"} & set(classes)


def test_official_numbers_of_pairs_are_checked(tmp_path):
    write_spair(tmp_path, **TWO)
    problems = load_dataset("spair71k", tmp_path).verify()
    assert "test: 2 of the official 12234 pairs" in problems


def test_a_point_outside_and_a_box_of_no_size_are_kept(tmp_path):
    write_spair(tmp_path, a=spair_pair(src_kps=[[61, 5], [60, 40]], trg_bndbox=[3, 4, 3, 4]))
    dataset = load_dataset("spair71k", tmp_path)
    assert dataset.pairs("test")[0].target_box == (3, 4, 3, 4)
    assert dataset.extent("test", None)["keypoints_outside"] == 1


def test_a_pair_without_keypoints_is_kept(tmp_path):
    write_spair(tmp_path, a=spair_pair(src_kps=[], trg_kps=[], kps_ids=[]))
    [pair] = load_dataset("spair71k", tmp_path).pairs("test")
    assert pair.source_points.shape == (0, 2)


BROKEN = {
    "class": ({"category": "sofa"}, "its category is 'sofa', which is none of aeroplane"),
    "lengths": ({"trg_kps": [[1, 2]]}, "src_kps, trg_kps and kps_ids have 2, 1 and 2 rows"),
    "ids": ({"kps_ids": ["3", "30"]}, r"kps_ids are \[3, 30\], not different numbers from 0 to 29"),
    "ids twice": ({"kps_ids": ["3", "3"]}, r"kps_ids are \[3, 3\]"),
    "nan": ({"src_kps": [[float("nan"), 2], [1, 2]]}, "src_kps holds nan"),
    "three": ({"src_kps": [[1, 2, 3], [1, 2, 3]]}, "src_kps has a row that is not x, y"),
    "box": ({"trg_bndbox": [1, 2, 3]}, "not enough values"),
    "null": ({"trg_bndbox": None}, "trg_bndbox is 'None', not a list of numbers"),
    "size": ({"src_imsize": [60, 41, 3]}, r"2008_1.jpg is 60 x 40 but .* says 60 x 41 \(width x height\)"),
    "name": ({"src_imname": "../x.jpg"}, "leaves its folder"),
    "a text": ({"src_kps": ["56", "78"]}, "src_kps is '56', not a list of numbers"),
    "half a level": ({"scale_variation": 0.5}, "invalid literal"),
    "level": ({"viewpoint_variation": "large"}, "invalid literal"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_pair_is_one_line_that_names_the_file(tmp_path, what):
    changed, message = BROKEN[what]
    [name] = write_spair(tmp_path, a=spair_pair())
    path = tmp_path / "SPair-71k" / "PairAnnotation" / "test" / f"{name}.json"
    save_text(path, json.dumps(spair_pair(**changed)))
    with pytest.raises(UserError, match=message) as error:
        load_dataset("spair71k", tmp_path).items("test")
    assert str(path) in said(error)


@pytest.mark.parametrize("key", sorted(spair_pair().keys() - {"filename", "mirror"}))
def test_what_a_pair_lacks_is_named(tmp_path, key):
    [name] = write_spair(tmp_path, a=spair_pair())
    content = spair_pair()
    del content[key]
    save_text(tmp_path / "SPair-71k" / "PairAnnotation" / "test" / f"{name}.json", json.dumps(content))
    with pytest.raises(UserError, match=f"is no pair of SPair-71k: lacks '{key}'; fetch it again"):
        load_dataset("spair71k", tmp_path).items("test")


def test_what_is_missing_is_named(tmp_path):
    dataset = load_dataset("spair71k", tmp_path)
    assert dataset.state() == "absent"
    with pytest.raises(UserError, match="the folder .*PairAnnotation/test is missing; run `densebench data get spair71k`"):
        dataset.items("test")
    [name] = write_spair(tmp_path, a=spair_pair())
    (tmp_path / "SPair-71k" / "JPEGImages" / "cat" / "2008_1.jpg").unlink()
    with pytest.raises(UserError, match=r"2008_1.jpg is missing"):
        load_dataset("spair71k", tmp_path).items("test")
    (tmp_path / "SPair-71k" / "PairAnnotation" / "test" / f"{name}.json").unlink()
    with pytest.raises(UserError, match=r"cat.json is missing"):
        load_dataset("spair71k", tmp_path).items("test")


def test_one_picture_of_two_classes_is_two_items(tmp_path):
    other = spair_pair(category="dog", filename="000002-2008_1-2009_2:dog")
    write_spair(tmp_path, a=spair_pair(), b=other)
    save_image(tmp_path / "SPair-71k" / "JPEGImages" / "dog" / "2008_1.jpg", 40, 60)
    names = [item.name for item in load_dataset("spair71k", tmp_path).items("test")]
    assert names == ["cat/2008_1", "cat/2009_2", "dog/2008_1", "dog/2009_2"]
