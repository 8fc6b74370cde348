"""Animal-Pose: listed pairs, made pairs, visibility, boxes, errors that name the file."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from dataset_files import save_text
from keypoint_files import animal, said, write_animal_pose

from densebench.datasets import load_dataset
from densebench.errors import UserError

HALF = [1, 0] * 10


def test_listed_pairs_keep_their_order_and_share_visible_keypoints(tmp_path):
    animals = [animal(1), animal(2, flags=HALF), animal(3, category=5), animal(4, category=5)]
    write_animal_pose(tmp_path, animals, ["2.jpg,1.jpg,dog,10", "3.jpg,4.jpg,cow,20"])
    first, second = load_dataset("animal-pose", tmp_path).pairs("all")
    assert (first.name, first.category, first.parts.tolist()) == ("0001-2-1", "dog", list(range(0, 20, 2)))
    assert first.source_points.tolist() == [[2 + part, part] for part in range(0, 20, 2)]
    assert first.target_points.tolist() == [[1 + part, part] for part in range(0, 20, 2)]
    assert (first.source_box, second.category) == ((2, 3, 32, 23), "cow")


def by_hash(numbers):
    return sorted(numbers, key=lambda number: hashlib.sha256(f"0 {number}.jpg".encode()).digest())


def test_made_pairs_follow_the_written_rule(tmp_path):
    write_animal_pose(tmp_path, [animal(number) for number in range(1, 6)])
    found = [(int(pair.source.name), int(pair.target.name)) for pair in load_dataset("animal-pose", tmp_path).pairs("all")]
    circle = by_hash(range(1, 6))
    assert found == [(circle[i], circle[(i + step) % 5]) for step in (1, 2) for i in range(5)]
    assert len({frozenset(pair) for pair in found}) == 10  # all, each once


def test_of_an_even_number_no_two_pictures_are_paired_twice(tmp_path):
    write_animal_pose(tmp_path, [animal(number) for number in range(1, 5)])
    found = [frozenset((pair.source.name, pair.target.name)) for pair in load_dataset("animal-pose", tmp_path).pairs("all")]
    assert len(found) == len(set(found)) == 6


def test_made_pairs_share_at_least_three_keypoints(tmp_path):
    flags = [[1] * count + [0] * (20 - count) for count in (2, 3, 3)]
    write_animal_pose(tmp_path, [animal(number, flags=each) for number, each in enumerate(flags, 1)])
    found = [{pair.source.name, pair.target.name} for pair in load_dataset("animal-pose", tmp_path).pairs("all")]
    assert found == [{"2", "3"}]


def test_at_most_200_pairs_of_a_class_are_made(tmp_path):
    write_animal_pose(tmp_path, [animal(number, category=1 + number % 2) for number in range(44)])
    pairs = load_dataset("animal-pose", tmp_path).pairs("all")
    assert [pair.category for pair in pairs] == ["dog"] * 200 + ["cat"] * 200


def test_a_picture_with_two_animals_is_left_out(tmp_path):
    write_animal_pose(tmp_path, [animal(1), animal(1), animal(2), animal(3)])
    assert {item.name for item in load_dataset("animal-pose", tmp_path).items("all")} == {"2", "3"}


def test_no_pair_at_all_is_an_error(tmp_path):
    write_animal_pose(tmp_path, [animal(1)])
    with pytest.raises(UserError, match="animal-pose has no image in split 'all'"):
        load_dataset("animal-pose", tmp_path).items("all")


LISTS = {
    "3.jpg,1.jpg,dog,20": "names '3.jpg', in which keypoints.json has not one animal",
    "1.jpg,2.jpg,cat,20": "has the class 'cat', keypoints.json a dog and a dog",
    "1.jpg,4.jpg,dog,20": "has the class 'dog', keypoints.json a dog and a cat",
    "1.jpg,2.jpg,dog,19": "has '19' shared keypoints, keypoints.json 20",
}


@pytest.mark.parametrize("row", LISTS)
def test_a_list_that_contradicts_the_keypoints_is_refused(tmp_path, row):
    write_animal_pose(tmp_path, [animal(1), animal(2), animal(3), animal(3), animal(4, category=2)], [row])
    with pytest.raises(UserError, match=LISTS[row]) as error:
        load_dataset("animal-pose", tmp_path).items("all")
    assert f"the list {tmp_path / 'animal-pose' / 'pairs.csv'}, line 2," in said(error) and "fetch both again" in said(error)


ANIMALS = {
    "19 parts": (animal(1, flags=[1] * 19), r"shape \(19, 3\), not 20 of x, y, visible"),
    "visible 2": (animal(1, flags=[2] * 20), "visibility 2, not 0 or 1"),
    "nan": (animal(1, keypoints=[[float("nan"), 1, 1]] * 20), "holds nan"),
    "text": (animal(1, keypoints=[["x", 1, 1]] * 20), "could not convert"),
    "three of a box": (animal(1, bbox=[1, 2, 3]), "not enough values"),
    "an infinite box": (animal(1, bbox=[1, 2, 3, float("inf")]), "holds inf"),
    "no such picture": (animal(1, image_id="x"), "lacks 'x'"),
    "no such class": (animal(1, category=9), "lacks 9"),
}


@pytest.mark.parametrize("what", ANIMALS)
def test_a_broken_animal_is_one_line_that_names_the_file(tmp_path, what):
    write_animal_pose(tmp_path, [animal(1), animal(2)])
    path = tmp_path / "animal-pose" / "keypoints.json"
    content = json.loads(path.read_text())
    wrong, message = ANIMALS[what]
    save_text(path, json.dumps({**content, "annotations": [wrong]}))
    with pytest.raises(UserError, match=message) as error:
        load_dataset("animal-pose", tmp_path).items("all")
    assert str(path) in said(error) and "fetch it again" in said(error)


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "{}", '{"categories": [{"id": 1, "name": "fish"}], "images": {}, "annotations": []}']
)
def test_a_file_of_another_kind_is_one_line(tmp_path, text):
    save_text(tmp_path / "animal-pose" / "keypoints.json", text)
    with pytest.raises(UserError, match=r"keypoints.json is no (JSON|file of Animal-Pose)") as error:
        load_dataset("animal-pose", tmp_path).items("all")
    said(error)


def test_a_name_that_leaves_the_folder_is_refused(tmp_path):
    write_animal_pose(tmp_path, [animal(1), animal(2)])
    path = tmp_path / "animal-pose" / "keypoints.json"
    save_text(path, path.read_text().replace("1.jpg", "../1.jpg"))
    with pytest.raises(UserError, match="leaves its folder"):
        load_dataset("animal-pose", tmp_path).items("all")


def test_a_box_of_no_size_is_kept(tmp_path):
    write_animal_pose(tmp_path, [animal(1, bbox=[5, 5, 5, 5]), animal(2)])
    [pair] = load_dataset("animal-pose", tmp_path).pairs("all")
    assert (5, 5, 5, 5) in (pair.source_box, pair.target_box) and np.isfinite(pair.target_points).all()
