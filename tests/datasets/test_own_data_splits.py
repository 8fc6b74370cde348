"""Folders without classes.toml: the split by seed, and how a folder is opened and said."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
from dataset_files import grid, save_image, save_mask, save_text

from densebench.datasets import load_dataset
from densebench.datasets.unlabelled import open_images
from densebench.errors import UserError
from densebench.training.run import Data


def add(folder, *names, values=(0, 1, 2)):
    for name in names:
        save_image(folder / "images" / f"{name}.jpg", value=sum(name.encode()) % 200)
        save_mask(folder / "masks" / f"{name}.png", grid(*values))


@pytest.fixture
def photos(tmp_path):
    add(tmp_path / "photos", *(f"photo{number}" for number in range(40)))
    return tmp_path / "photos"


def names(dataset, split):
    return [item.name for item in dataset.items(split)]


def test_the_split_is_a_fraction_of_the_sha_256_of_seed_and_name(photos):
    for seed, share in ((0, 0.2), (3, 0.5)):
        dataset = load_dataset(f"folder:{photos}?seed={seed}&val={share}")
        held = [
            name
            for name in sorted(f"photo{number}" for number in range(40))
            if int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest(), 16) / 2**256 < share
        ]
        assert names(dataset, "val") == held
        assert len(names(dataset, "train")) == 40 - len(held)
    assert names(load_dataset(photos), "val") == names(load_dataset(f"folder:{photos}?seed=0&val=0.2"), "val")


def test_another_image_moves_none_of_the_others(photos):
    before = {split: set(names(load_dataset(photos), split)) for split in ("train", "val")}
    add(photos, *(f"more{number}" for number in range(20)))
    after = load_dataset(photos)
    assert all(before[split] <= set(names(after, split)) for split in before)


@pytest.mark.parametrize(("share", "split"), [("0.0001", "val"), ("0.9999", "train")])
def test_two_images_are_left_on_either_side(photos, share, split):
    assert len(names(load_dataset(f"folder:{photos}?val={share}"), split)) == 2


def test_three_images_are_too_few(tmp_path):
    add(tmp_path, "a", "b", "c")
    with pytest.raises(UserError, match="has 3 images with labels; a split by seed needs 4"):
        load_dataset(tmp_path)


def test_a_seed_for_a_folder_that_is_split_already_is_refused(tmp_path):
    for split in ("train", "val"):
        add(tmp_path / split, "a", "b")
    with pytest.raises(UserError, match=r"seed in .* would split at random, but .* is split by folders; leave seed out"):
        load_dataset(f"folder:{tmp_path}?seed=1")


def test_the_rule_of_the_split_stands_in_the_record(photos):
    assert load_dataset(f"folder:{photos}?seed=4").facts()["split_rule"] == "by seed 4, 0.2 of the names for val"


def test_other_seeds_give_other_digests(photos):
    one, other = load_dataset(photos), load_dataset(f"folder:{photos}?seed=1")
    assert one.digest("val", one.items("val")) != other.digest("val", other.items("val"))


def test_a_data_set_passes_to_other_processes(photos):
    dataset = load_dataset(photos)
    assert pickle.loads(pickle.dumps(dataset)) == dataset


CASES = {
    "numbers": ((0, 1, 2, 255), ""),
    "gaps": ((3, 9, 255), ""),
    "void": ((0, 1, 2, 7), "?ignore_index=7"),
    "no zero": ((0, 1, 2), "?ignore_index=0"),
    "binary": ((0, 255), ""),
    "seed": ((0, 1), "?seed=2&val=0.4"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_classes_toml_that_it_writes_gives_the_same_numbers(tmp_path, case):
    values, query = CASES[case]
    add(tmp_path, *"abcdefgh", values=values)
    inferred = load_dataset(f"folder:{tmp_path}{query}")
    (tmp_path / "classes.toml").write_text(inferred.classes_toml())
    written = load_dataset(tmp_path)
    assert (written.classes, written.background) == (inferred.classes, inferred.background)
    for split in ("train", "val"):
        assert written.digest(split, written.items(split)) == inferred.digest(split, inferred.items(split))
        assert all((written.label(item) == inferred.label(item)).all() for item in inferred.items(split))


def test_a_classes_toml_with_names_alone_is_completed(photos):
    save_text(photos / "classes.toml", 'classes = ["sky", "road", "car"]')
    named, label = load_dataset(photos), "photo1"
    (photos / "classes.toml").unlink()
    plain = load_dataset(photos)
    assert named.classes == ("sky", "road", "car")
    assert names(named, "val") == names(plain, "val")
    digests = [
        dataset.label_digest(next(item for item in dataset.items("train") if item.name == label)) for dataset in (named, plain)
    ]
    assert digests[0] == digests[1]


def test_the_identity_of_a_folder_that_is_described_stays(tmp_path):
    for split in ("train", "val"):
        save_image(tmp_path / "images" / split / "a.png")
        save_mask(tmp_path / "labels" / split / "a.png", grid(0, 1, 255))
    save_text(tmp_path / "classes.toml", 'classes = ["cat", "dog"]\n')
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.facts() == {"classes": 2, "mapping": "folder-2-ignore-255-from-0-v1"}
    [item] = dataset.items("val")
    assert dataset.label_identity(item) == "folder-2-ignore-255-from-0-v1"
    save_text(tmp_path / "classes.toml", 'classes = ["cat"]\nreduce_zero_label = true\nignore_index = 9\n')
    assert load_dataset(f"folder:{tmp_path}").mapping == "folder-1-ignore-9-from-1-v1"


def test_a_folder_is_opened_by_its_path_alone(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    spec = load_dataset("folder:photos")
    assert load_dataset("photos") == load_dataset("photos/") == load_dataset(Path("photos")) == spec
    assert load_dataset("photos?seed=1").name == "folder:photos?seed=1"
    assert load_dataset(spec) is spec


def test_a_known_name_wins_over_a_folder_but_not_over_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add(tmp_path / "scenes", *"abcd")
    assert load_dataset("scenes").name == "scenes"
    assert load_dataset("./scenes").name == "folder:./scenes"
    assert load_dataset(Path("scenes")).name == "folder:scenes"


def test_the_data_root_may_be_a_text(voc):
    assert load_dataset("voc", str(voc.root)) == voc


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["voc", "scenes"], "opens one data set, not a list of 2; call it for each"),
        (7, "not int"),
        (None, "not NoneType"),
        ("nowhere", "unknown data set 'nowhere'"),
        ("folder:nowhere", "the folder nowhere does not exist"),
        ("folder:nowhere?seed=1", "the folder nowhere does not exist"),
        ("", "unknown data set ''"),
        ("x" * 5000, "unknown data set 'xxx"),
        ("folder:" + "x" * 5000, "the folder xxx"),
        (Path("x" * 5000), "the folder xxx"),
        ("frames:" + "x" * 5000, "is missing"),
        ("a\0b", "unknown data set"),
    ],
)
def test_what_is_no_data_set_is_refused(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        load_dataset(given)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sed=1", "unknown key in .*'sed': did you mean 'seed'"),
        ("seed=x", "seed in .* is 'x', not a whole number"),
        ("seed=-1", "seed in .* is -1; give a whole number"),
        ("val=2", "val in .* is 2; it is a share between 0 and 1"),
        ("val=nan", "val in .* is nan"),
        ("seed", "names seed without a value"),
        ("seed=1&seed=2", "gives seed twice"),
        ("classes=a", "classes in .* is a list; write it in classes.toml"),
        ("ignore_index=red", "ignore_index in .* is 'red', not a whole number or a colour"),
        ("ignore_index=#ff0000", "ignore_index in .* is the colour #ff0000, but the label maps hold numbers"),
        ("ignore_index=300", "ignore_index 300 in .* must be in 0..255"),
        ("ignore_background=maybe", "is 'maybe', not true or false"),
        ("background=sky", "unknown background class 'sky'"),
    ],
)
def test_keys_that_are_wrong_are_refused(photos, query, message):
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(f"folder:{photos}?{query}")
    assert "\n" not in str(caught.value)


def test_a_folder_whose_name_holds_a_question_mark_is_opened(photos):
    strange = photos.rename(photos.parent / "what?seed=1")
    assert load_dataset(f"folder:{strange}").facts()["split_rule"].startswith("by seed 0")
    assert load_dataset(f"folder:{strange}?seed=2").facts()["split_rule"].startswith("by seed 2")


def test_videos_are_recognised_by_their_path_and_named_otherwise(tmp_path):
    for split in ("boat", "dog"):
        save_image(tmp_path / "JPEGImages" / split / "0.jpg")
        save_mask(tmp_path / "Annotations" / split / "0.png", grid(0, 1))
    assert load_dataset(tmp_path).name == f"frames:{tmp_path}"
    with pytest.raises(UserError, match=r"holds videos; write frames:"):
        load_dataset(f"folder:{tmp_path}")


def test_one_name_of_images_is_not_split_into_letters(photos):
    assert len(open_images("scenes")) == 256
    dataset = load_dataset(photos)
    assert len(open_images(dataset)) == len(dataset.items("train"))
    assert len(open_images(photos / "images")) == 40


@pytest.mark.parametrize("specs", ["scenes", Path("scenes"), ["scenes"], (Path("scenes"),)])
def test_images_to_train_on_may_be_one_name_or_path(specs):
    assert Data(specs).specs == ("scenes",)
