"""AP-10K: the authors' pairs, made pairs, flags, splits, errors that name the file."""

from __future__ import annotations

import itertools
import json

import pytest
from dataset_files import save_image, save_text
from keypoint_files import animal, said, write_ap10k

from densebench.datasets import load_dataset
from densebench.errors import UserError

CAT, LION, DOG = 1, 2, 3
NAMES = {CAT: "cat", LION: "lion", DOG: "dog"}


def seen(number, category=CAT, flags=(2,) * 17, **changed):
    return animal(number, category, list(flags), "ap10k", **changed)


def ids(pairs):
    return [(int(pair.source.name), int(pair.target.name)) for pair in pairs]


def write_authors(root, split, *pairs, prefix="data/ap-10k"):
    for source, target, category in pairs:
        paths = [f"{prefix}/ImageAnnotation/Felidae/cat/{number:012}.json" for number in (source, target)]
        name = f"{source:012}-{target:012}:{category}.json"
        save_text(
            root / "ap-10k" / "PairAnnotation" / split / name, json.dumps({"src_json_path": paths[0], "trg_json_path": paths[1]})
        )


def test_the_authors_pairs_are_taken_by_name(tmp_path):
    write_ap10k(tmp_path, [seen(3), seen(1), seen(2)], crowd=None)
    write_authors(tmp_path, "test", (3, 1, "cat"), (1, 2, "cat"), prefix="/home/someone")
    dataset = load_dataset("ap10k", tmp_path)
    assert ids(dataset.pairs("test")) == [(1, 2), (3, 1)]
    assert [pair.name for pair in dataset.pairs("test")] == [
        "000001-000000000001-000000000002",
        "000002-000000000003-000000000001",
    ]
    assert dataset.extent("test", None)["lists"] == "the authors'"


def test_a_point_flagged_1_counts_where_the_file_has_it(tmp_path):
    flags = (0, 1, 2) + (2,) * 14
    write_ap10k(tmp_path, [seen(4, flags=flags), seen(5)])
    [pair] = load_dataset("ap10k", tmp_path).pairs("test")
    assert pair.parts.tolist() == list(range(1, 17))
    assert pair.source_points[0].tolist() == [5, 1] and pair.target_points[0].tolist() == [6, 1]


def test_boxes_are_left_top_right_bottom(tmp_path):
    write_ap10k(tmp_path, [seen(4, bbox=[2, 3, 32, 23]), seen(5)])
    assert load_dataset("ap10k", tmp_path).pairs("test")[0].source_box == (2, 3, 34, 26)


def test_the_first_animal_of_a_picture_counts(tmp_path):
    write_ap10k(tmp_path, [seen(4, bbox=[1, 1, 5, 5]), seen(4, bbox=[9, 9, 9, 9]), seen(5)])
    [pair] = load_dataset("ap10k", tmp_path).pairs("test")
    assert pair.source_box == (1, 1, 6, 6)


def test_pictures_are_found_where_the_notebook_moves_them(tmp_path):
    write_ap10k(tmp_path, [seen(4), seen(5)])
    for number in (4, 5):
        (tmp_path / "ap-10k" / "data" / f"{number:012}.jpg").unlink()
        save_image(tmp_path / "ap-10k" / "JPEGImages" / "Felidae" / "cat" / f"{number:012}.jpg", 30, 40)
    dataset = load_dataset("ap10k", tmp_path)
    assert [dataset.image(item).size for item in dataset.items("test")] == [(40, 30)] * 2


def test_made_pairs_are_all_that_share_enough(tmp_path):
    few, weak = (2, 2, 2) + (0,) * 14, (1,) * 11 + (0,) * 6
    ones = (1,) * 17
    write_ap10k(tmp_path, [seen(6), seen(2), seen(4, flags=few), seen(9, flags=ones), seen(8, flags=weak)])
    pairs = load_dataset("ap10k", tmp_path).pairs("test")
    # sums of products of flags / 2: 3 with `few`, 5.5 with `weak`, 8.5 with ones, 2.75 of `weak` and ones, 1.5 of `few` and these
    assert ids(pairs) == [(2, 4), (2, 6), (2, 8), (2, 9), (4, 6), (6, 8), (6, 9)]


def test_crowds_and_animals_with_few_keypoints_are_left_out(tmp_path):
    write_ap10k(tmp_path, [seen(1), seen(2), seen(3), seen(4, flags=(2, 2) + (0,) * 15)], crowd="000000000002\n\n")
    assert ids(load_dataset("ap10k", tmp_path).pairs("test")) == [(1, 3)]


def test_the_last_30_of_a_species_are_test_and_the_20_before_val(tmp_path):
    write_ap10k(tmp_path, [seen(number) for number in range(1, 61)] + [seen(number, LION) for number in range(61, 93)])
    dataset = load_dataset("ap10k", tmp_path)
    assert ids(dataset.pairs("test"))[:435] == list(itertools.combinations(range(31, 61), 2))
    assert ids(dataset.pairs("val")) == [*itertools.combinations(range(11, 31), 2), (61, 62)]
    assert [dataset.categories(split) for split in ("test", "val")] == [("cat", "lion")] * 2


def test_across_species_both_are_of_one_family(tmp_path):
    write_ap10k(tmp_path, [seen(1), seen(2), seen(3, LION), seen(4, LION), seen(5, DOG)])
    dataset = load_dataset("ap10k", tmp_path)
    assert ids(dataset.pairs("test_cross_species")) == [(1, 3), (4, 1), (2, 3), (4, 2)]
    assert dataset.categories("test_cross_species") == ("Felidae",)


def test_of_two_families_there_are_30_pairs_evenly_spaced(tmp_path):
    animals = [seen(number) for number in range(1, 8)] + [seen(number, DOG) for number in range(11, 19)]
    write_ap10k(tmp_path, animals)
    pairs = ids(load_dataset("ap10k", tmp_path).pairs("test_cross_family"))
    every = list(itertools.product(range(11, 19), range(1, 8)))  # Canidae, then Felidae
    spaced = [every[round(55 * index / 29)] for index in range(30)]
    assert pairs == [pair[::-1] if number % 2 else pair for number, pair in enumerate(spaced)]


def test_made_pairs_say_so_in_the_record(tmp_path):
    write_ap10k(tmp_path, [seen(1), seen(2)])
    extent = load_dataset("ap10k", tmp_path).extent("test", None)
    assert (extent["pairs"], extent["keypoints"], extent["lists"]) == (1, 17, "made")


def test_a_picture_of_another_size_than_stated_is_refused(tmp_path):
    write_ap10k(tmp_path, [seen(1), seen(2)])
    save_image(tmp_path / "ap-10k" / "data" / "000000000002.jpg", 31, 40)
    with pytest.raises(UserError, match=r"2.jpg is 40 x 31 but .*annotations says 40 x 30"):
        load_dataset("ap10k", tmp_path).items("test")


def test_without_pairs_and_without_the_list_of_crowds_it_says_what_to_fetch(tmp_path):
    write_ap10k(tmp_path, [seen(1), seen(2)], crowd=None)
    with pytest.raises(UserError, match=r"ap-10k_is_crowd.txt is missing; see `densebench data get ap10k`") as error:
        load_dataset("ap10k", tmp_path).items("test")
    said(error)


def test_the_list_of_crowds_may_lie_beside_the_folder(tmp_path):
    write_ap10k(tmp_path, [seen(1), seen(2), seen(3)], crowd=None)
    save_text(tmp_path / "ap-10k_is_crowd.txt", "000000000003\n")
    assert ids(load_dataset("ap10k", tmp_path).pairs("test")) == [(1, 2)]


BROKEN = {
    "flag 3": (seen(1, flags=(3,) * 17), "17 of x, y and a flag of 0, 1 or 2"),
    "16 parts": (seen(1, flags=(2,) * 16), "17 of x, y and a flag"),
    "nan": (seen(1, keypoints=[float("nan")] * 51), "holds nan"),
    "ragged": (seen(1, keypoints=[1] * 50), "cannot reshape"),
    "box": (seen(1, bbox=[1, 2]), "not enough values"),
    "category": (seen(1, 7), "lacks 7"),
    "picture": ({**seen(1), "image_id": 9}, "lacks 9"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_animal_is_one_line_that_names_the_file(tmp_path, what):
    wrong, message = BROKEN[what]
    write_ap10k(tmp_path, [seen(1), seen(2)])
    path = tmp_path / "ap-10k" / "annotations" / "ap10k-val-split1.json"
    save_text(path, json.dumps({**json.loads(path.read_text()), "annotations": [wrong]}))
    with pytest.raises(UserError, match=message) as error:
        load_dataset("ap10k", tmp_path).items("test")
    assert str(path) in said(error) and "fetch it again" in said(error)


PAIRS = {
    "{}": "lacks 'src_json_path'",
    '{"src_json_path": "x/1.json", "trg_json_path": "x/9.json"}': "names the picture 9, which the annotations lack",
    '{"src_json_path": "x/cat.json", "trg_json_path": "x/1.json"}': "invalid literal",
    "": "is no JSON",
}


@pytest.mark.parametrize("text", PAIRS)
def test_a_broken_pair_is_one_line_that_names_the_file(tmp_path, text):
    write_ap10k(tmp_path, [seen(1), seen(2)])
    path = tmp_path / "ap-10k" / "PairAnnotation" / "test" / "1-2:cat.json"
    save_text(path, text)
    with pytest.raises(UserError, match=PAIRS[text]) as error:
        load_dataset("ap10k", tmp_path).items("test")
    assert str(path) in said(error)


def test_a_list_of_crowds_that_is_none_is_refused(tmp_path):
    write_ap10k(tmp_path, [seen(1), seen(2)], crowd="000000000001\n<html>\n")
    with pytest.raises(UserError, match=r"line 2, is '<html>', not the number of a picture"):
        load_dataset("ap10k", tmp_path).items("test")
