"""A part of a split is called so: in the record, where it is printed, in captions; and never stands beside published numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_files import SHIPPED
from made_records import BACKBONE, DATASET, PROTOCOL

from densebench.datasets import load_dataset
from densebench.datasets.scenes import Scenes
from densebench.evaluation.run import evaluate
from densebench.results import record as records
from densebench.results.coverage import images, partial, unit
from densebench.results.leaderboard import leaderboard, render
from densebench.results.report import report
from densebench.results.score import Score
from densebench.results.summary import summary

WARNING = "not comparable with published numbers"
WHOLE = {"images": 1449, "official_images": 1449, "train_images": 10582, "official_train_images": 10582}
PART = {"images": 300, "official_images": 1449, "train_images": 437, "official_train_images": 10582}


def dataset(name="voc", **counts):
    return {
        "name": name,
        "split": "val",
        "train_split": "trainaug",
        "digest": str(sorted(counts.items())),
        "limit": None,
        **DATASET,
        **counts,
    }


def write(results, counts, name="a", preset="hummingbird", protocol="incontext", data="voc"):
    header = {
        "backbone": {
            **BACKBONE,
            "spec": name,
            "digest": name,
        },
        "protocol": {
            **PROTOCOL,
            "name": protocol,
            "preset": preset,
            "version": 1,
            "settings": {"image_size": 224},
            "headline": {"metric": "miou", "variant": "identity"},
        },
        "dataset": dataset(data, **counts),
    }
    record = records.open_or_create(results, header)
    record.add([Score("miou", "identity", 40.0, axes={"fraction": 1, "seed": None}, direction="higher")])
    record.finish("complete", {})
    return record


WITHOUT_LISTS = {"animal-pose", "ap10k"}
"""Data sets of which no list of pairs is published."""


@pytest.mark.parametrize("name", sorted(SHIPPED.keys() - WITHOUT_LISTS))
def test_a_built_in_data_set_knows_how_many_images_or_pairs_each_split_has(name):
    found = load_dataset(name, Path())
    pairs = getattr(found, "official_pairs", {})
    assert {split for split in found.splits if not (found.official_images(split) or pairs.get(split))} == set()


def test_a_generated_data_set_is_whole():
    found = load_dataset("scenes")
    assert {split: len(found.items(split)) for split in found.splits} == {
        split: found.official_images(split) for split in found.splits
    }


def test_nobody_knows_how_many_images_a_folder_of_ones_own_has(tmp_path):
    (tmp_path / "classes.toml").write_text('classes = ["cat", "dog"]')
    assert load_dataset(f"folder:{tmp_path}").official_images("train") is None


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (WHOLE, "1,449 images"),
        (PART, "300 of 1,449 images, 437 of 10,582 training images"),
        ({**WHOLE, "train_images": 437}, "1,449 images, 437 of 10,582 training images"),
        ({**WHOLE, "images": 300}, "300 of 1,449 images"),
        ({"images": 300, "train_images": 4}, "300 images"),
        ({**WHOLE, "official_images": None, "official_train_images": None}, "1,449 images"),
        ({**WHOLE, "images": 1450}, "1,450 images where officially there are 1,449"),
    ],
)
def test_how_much_is_covered_in_words(counts, said):
    assert images(dataset(**counts)) == said
    assert partial(dataset(**counts)) is (" of " in said or "officially" in said)


@pytest.mark.parametrize(
    ("counts", "said", "is_partial"),
    [
        ({"images": 32, "pairs": 96, "official_pairs": 96}, "96 pairs of 32 images", False),
        ({"images": 66, "pairs": 40, "official_pairs": 299, "official_images": 506}, "40 of 299 pairs, of 66 images", True),
        ({"images": 7, "pairs": 5, "official_pairs": None}, "5 pairs of 7 images", False),
        ({"images": 9, "pairs": 300, "official_pairs": 299}, "300 pairs where officially there are 299, of 9 images", True),
        ({"images": 505, "pairs": 299, "official_pairs": 299, "official_images": 506}, "299 pairs of 505 images", True),
    ],
)
def test_pairs_are_counted_where_they_are_scored(counts, said, is_partial):
    about = dataset(**{"train_split": "val", "train_images": counts["images"], "official_images": None, **counts})
    assert (images(about), partial(about), unit(about)) == (said, is_partial, "pairs")
    assert unit(dataset(**WHOLE)) == "images"


def test_what_a_protocol_leaves_out_of_a_whole_split_does_not_make_it_partial():
    counts = {**WHOLE, "images": 1440, "left_out": 9}
    assert (images(dataset(**counts)), partial(dataset(**counts))) == ("1,440 images", False)
    counts = {**PART, "images": 288, "left_out": 12, "train_split": "val"}
    assert (images(dataset(**counts)), partial(dataset(**counts))) == ("288 of 1,449 images", True)


def test_a_protocol_that_looks_at_one_split_does_not_say_it_twice():
    counts = {**PART, "train_images": 300, "official_train_images": 1449, "train_split": "val"}
    assert images(dataset(**counts)) == "300 of 1,449 images"


def planned(protocol, **given):
    """The head of the record that a run on the 256 and 64 images of `scenes` would make."""
    [record] = evaluate("pixels:32", protocol, "scenes", dry_run=True, **given).records
    return record


def test_a_record_has_the_official_numbers(monkeypatch):
    monkeypatch.setattr(Scenes, "official_counts", {"train": 2000, "val": 100})
    record = planned("incontext")
    assert (record["dataset"]["images"], record["dataset"]["official_images"]) == (64, 100)
    assert (record["dataset"]["train_images"], record["dataset"]["official_train_images"]) == (256, 2000)
    assert partial(record["dataset"])


def test_the_printed_summary_says_what_is_missing(tmp_path):
    text = summary(write(tmp_path, PART).json())
    assert "a on voc (300 of 1,449 images, 437 of 10,582 training images), incontext" in text


def test_images_are_counted_before_a_protocol_leaves_some_out():
    record = planned("kmeans", clusters="8", whole_batches="60")
    assert (record["dataset"]["images"], record["dataset"]["left_out"]) == (60, 4)
    assert not partial(record["dataset"])


def test_a_caption_ends_with_the_warning(tmp_path):
    write(tmp_path, PART)
    [table] = leaderboard(tmp_path).tables
    assert "on voc val (300 of 1,449 images, 437 of 10,582 training images), 224 px" in table.caption
    assert table.caption.endswith(WARNING)


def test_a_whole_split_has_no_warning(tmp_path):
    write(tmp_path, WHOLE)
    [table] = leaderboard(tmp_path).tables
    assert "on voc val (1,449 images), 224 px" in table.caption
    assert WARNING not in table.caption


def test_the_report_says_it_too(tmp_path):
    write(tmp_path, PART)
    assert "300 of 1,449 images, 437 of 10,582 training images" in report(tmp_path)


def test_published_numbers_stand_beside_a_whole_split_only(tmp_path, capsys):
    write(tmp_path / "whole", WHOLE)
    assert leaderboard(tmp_path / "whole", published=True).published_tables
    write(tmp_path / "part", PART)
    board = leaderboard(tmp_path / "part", published=True)
    assert board.published_tables == [] and board.published.empty
    [line] = capsys.readouterr().err.splitlines()
    said = "voc (300 of 1,449 images, 437 of 10,582 training images)"
    assert line == f"no published numbers stand beside a part of a split: {said}"


def test_published_numbers_do_not_stand_beside_a_whole_and_a_partial_group(tmp_path):
    write(tmp_path, WHOLE)
    write(tmp_path, PART)
    assert leaderboard(tmp_path, published=True).published_tables == []


def test_one_partial_data_set_does_not_hide_the_numbers_of_another(tmp_path):
    write(tmp_path, PART)
    write(tmp_path, {"images": 2000, "official_images": 2000}, data="ade20k")
    captions = [table.caption for table in leaderboard(tmp_path, published=True).published_tables]
    assert captions == ["published, not measured here: incontext-hummingbird on ade20k, mIoU in %"]


def test_a_profile_of_parts_says_so(tmp_path):
    write(tmp_path, PART)
    write(tmp_path, PART, preset="cribo", protocol="other")
    [profile] = leaderboard(tmp_path).profiles
    assert profile.caption.endswith(f"300 of 1,449 images, 437 of 10,582 training images, {WARNING}")


def test_a_profile_of_a_part_and_a_whole_says_which_is_which(tmp_path):
    write(tmp_path, WHOLE)
    write(tmp_path, PART, protocol="other")
    [profile] = leaderboard(tmp_path).profiles
    assert list(profile.cells.columns) == [
        "backbone",
        "incontext/hummingbird 224 px 1/1",
        "other/hummingbird 224 px 1/1 (300 of 1,449 images, 437 of 10,582 training images)",
    ]


def test_csv_has_the_official_number(tmp_path):
    write(tmp_path, PART)
    head, row = render(leaderboard(tmp_path), "csv").splitlines()
    named = dict(zip(head.split(","), row.split(","), strict=True))
    assert (named["images"], named["official_images"], named["partial"]) == ("300", "1449", "True")


def test_the_shared_data_are_called_partial(shared_data):
    """The sample of VOC has 300 of 1,449 images, that of ADE20K three of 2,000; CamVid's test split is whole."""
    found = {name: load_dataset(name, shared_data) for name in ("voc", "ade20k", "camvid")}
    counts = {name: (len(one.items(one.val_split)), one.official_images(one.val_split)) for name, one in found.items()}
    assert counts == {"voc": (300, 1449), "ade20k": (3, 2000), "camvid": (233, 233)}
